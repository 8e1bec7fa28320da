"""The report in a real browser: what a reader clicks, sorts and filters; and that nothing acts that should not."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import make_sweep

from hptransfer.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver on this machine: the page is not tried in a browser",
    ),
]


class Browser:
    """The few words of the WebDriver protocol (https://www.w3.org/TR/webdriver2/) that a page test needs."""

    def __init__(self, base: str, profile: Path) -> None:
        self.base = base
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}", "--window-size=1200,900"]}
        logging = {"goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": logging}})
        self.base += f"/session/{session['sessionId']}"

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, fragment: str = "") -> None:
        self.call("POST", "/url", {"url": "about:blank"})
        self.call("POST", "/url", {"url": f"{page.as_uri()}{fragment}"})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return str(next(iter(found.values())))

    def click(self, selector: str) -> None:
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).map(e => e.innerText)"
        return list(self.run(script, selector))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert DRIVER is not None
    process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    port = next(line.rstrip(".\n").rsplit(" ", 1)[1] for line in process.stdout if "started successfully" in line)
    base = f"http://127.0.0.1:{port}"
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{base}/status", timeout=5).close()
            break
        except urllib.error.URLError:
            time.sleep(0.1)
    chrome = Browser(base, tmp_path_factory.mktemp("profile"))
    yield chrome
    chrome.call("DELETE", "")
    process.terminate()
    process.wait(20)
    process.stdout.close()


ROWS = "#runs tbody tr"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make_sweep(folder / "runs")
    make_sweep(folder / "runs", parametrization="sp")
    return write_report([folder / "runs"], None, folder / "report.html")


def test_a_click_on_a_point_opens_its_run(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.texts("#run") == []
    link = "#u_curves a[href^='#run-']"
    name = browser.run(f'return document.querySelector("{link}").getAttribute("href").slice(1)')
    run = json.loads(browser.run('return document.getElementById("data").textContent'))["runs"][name]
    browser.click(link)
    assert browser.texts("#run-source") == [run["source"]]
    assert browser.texts("#run-curves h3")[0].startswith("training loss")
    quantities = run["curve"].keys() - {"tokens"}
    assert len(quantities) >= 2
    assert browser.run("return document.querySelectorAll('#run-curves svg path').length") == len(quantities)
    assert "optimizer.lr" in browser.texts("#run-facts")[0]
    assert browser.run("return location.hash") == f"#{name}"
    assert browser.run("return document.querySelectorAll('tr.picked').length") == 1
    browser.click("#close")
    assert browser.texts("#run") == []
    assert browser.complaints() == []


def test_a_row_opens_its_run_and_an_address_with_a_run_opens_it_too(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click(f"{ROWS}:nth-child(4) td:nth-child(2)")
    (source,) = browser.texts("#run-source")
    fragment = browser.run("return location.hash")
    browser.open(page, fragment)
    assert browser.texts("#run-source") == [source]
    browser.open(page, "#run-0000000000")
    assert browser.texts("#run") == []
    assert browser.complaints() == []


def test_columns_sort_both_ways_with_the_unknown_last(browser: Browser, page: Path) -> None:
    browser.open(page)
    column = (
        browser.run("return [...document.querySelectorAll('#runs th')].findIndex(h => h.dataset.key === 'loss')") + 1
    )
    for order in (1, -1):
        browser.click(f"#runs th:nth-child({column}) button")
        shown = browser.texts(f"{ROWS} td:nth-child({column})")
        losses = [float(text) for text in shown if text != "–"]
        assert losses == sorted(losses)[::order]
        assert shown[-6:] == ["–"] * 6
    browser.click("#runs th:nth-child(1) button")
    names = browser.texts(f"{ROWS} td:nth-child(1)")
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("words", "count"),
    [("", 36), ("sp", 18), ("width=64", 12), ("width>=128 lr<0.005 status=finished", 8), ("nonsense", 0), ("lr>x", 0)],
)
def test_the_filter_takes_words_and_comparisons(browser: Browser, page: Path, words: str, count: int) -> None:
    browser.open(page)
    browser.type("#filter", words or " ")
    assert browser.texts("#shown") == [f"{count} of 36"]
    assert len(browser.texts(ROWS)) == count


def test_what_a_user_wrote_does_not_act(browser: Browser, tmp_path: Path) -> None:
    names = ["</script><script>document.title='owned'</script>", "<img src=x onerror=document.title='owned'>"]
    lines = "".join(f'1e6,1e7,0.{i},4096,2.{i},"{name}"\n' for i, name in enumerate(names, start=1))
    table = tmp_path / "runs.csv"
    table.write_text(f"params,tokens,lr,batch_tokens,loss,parametrization\n{lines}")
    browser.open(write_report([table], None, tmp_path / "report.html", title="calm"))
    for line in (1, 2):
        browser.click(f"{ROWS}:nth-child({line})")
        assert any(name in browser.texts("#run-facts")[0] for name in names)
    assert browser.call("GET", "/title") == "calm"
    assert browser.run("return document.images.length") == 0
    assert browser.complaints() == []


def test_an_inline_handler_would_be_refused(browser: Browser, page: Path) -> None:
    """The page's own policy stands behind the escaping."""
    browser.open(page)
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    time.sleep(0.3)
    assert browser.call("GET", "/title") == "Hyperparameter transfer report"
    assert any("Content Security Policy" in message for message in browser.complaints())
