"""A contract that every model keeps, as tests for pytest. Your own model inherits it in three lines:

    from hptransfer.testing import ModelContract

    class TestMine(ModelContract):
        model = {"name": "path/to/file.py:build", "width": 32, "depth": 2, "head_dim": 16}

or, for a factory that knows nothing of us (`hptransfer.parametrize`), with `build`, `base`, `delta` and `target`, and
`inputs()` that returns what its forward takes.
"""

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple
from unittest import SkipTest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.applied import draw, grouped
from hptransfer.config import RunConfig
from hptransfer.foreign import parametrize
from hptransfer.loading import Source, validate
from hptransfer.losses import logits_of
from hptransfer.optimizers import make
from hptransfer.parametrization import FAMILIES, SCHEMES
from hptransfer.plan import TensorPlan
from hptransfer.scaling import build, resolve

TOKENS, BATCH_TOKENS = 6400, 64
Config = Mapping[str, Any]


class Subject(NamedTuple):
    """A model with its initial weights, and the numbers it is trained with."""

    model: nn.Module
    tensors: tuple[TensorPlan, ...]


class ModelContract:
    """What holds of every model at its base shape and at one twice as wide and deep."""

    model: ClassVar[Config] = {}
    """The model section of a run config, at its base shape."""
    data: ClassVar[Config] = {"source": "text", "path": ".", "seq_len": 16}
    """Gives vocabulary and sequence length, or the images' size and classes; nothing is read."""

    build: Callable[..., nn.Module] | None = None
    """In place of `model`: a factory, with its sizes `base`, `delta` and `target`."""
    base: Any = None
    delta: Any = None
    target: Any = None

    parametrization: str = "completep"
    optimizer: ClassVar[Config] = {"name": "adamw"}
    seed: int = 0

    def inputs(self) -> Tensor:
        """What the model's forward takes; for a `build`, give your own."""
        if type(self).build is not None:
            raise NotImplementedError(f"{type(self).__name__}.inputs: return what the forward of your build takes")
        config = self._config(self.parametrization, grown=False)
        shape = config.shape
        if hasattr(shape, "image_size"):
            pixels = torch.arange(3 * shape.channels * shape.image_size**2, dtype=torch.float32)
            return pixels.cos().reshape(3, shape.channels, shape.image_size, -1)
        return torch.arange(3 * int(shape.seq_len)).reshape(3, -1) % int(shape.vocab_size)

    def logits(self, output: Any) -> Tensor:
        """The logits in what the model's forward gives back."""
        return logits_of(output)

    def subject(self, grown: bool = True, scheme: str | None = None) -> Subject:
        """The model at its base shape, or larger."""
        scheme = scheme or self.parametrization
        factory = type(self).build
        if factory is None:
            plan = resolve(self._config(scheme, grown))
            return Subject(build(plan), plan.tensors)
        made = parametrize(
            factory,
            base=self.base,
            delta=self.delta,
            target=self.target if grown else self.base,
            scheme=scheme,
            optimizer=self.optimizer,
            seed=self.seed,
            inputs=self.inputs(),
        )
        return Subject(made.model, made.tensors)

    def test_every_parameter_has_one_role_and_is_in_one_group(self) -> None:
        model, tensors = self.subject()
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert sorted(tensor.name for tensor in tensors) == sorted(names)
        in_groups = [id(parameter) for group in grouped(model, tensors) for parameter in group["params"]]
        assert sorted(in_groups) == sorted(id(p) for p in model.parameters() if p.requires_grad)

    def test_at_its_base_it_is_the_standard_parametrization(self) -> None:
        """Bit for bit: numbers, weights, logits. Schemes without a base, and Muon's, have nothing to be compared to."""
        if not SCHEMES[self.parametrization].needs or FAMILIES[str(self.optimizer["name"])] not in SCHEMES["sp"].rules:
            raise SkipTest(f"{self.parametrization} has no base shape at which it is sp")
        ours, standard = self.subject(grown=False), self.subject(grown=False, scheme="sp")
        assert ours.tensors == standard.tensors
        for mine, theirs in zip(ours.model.parameters(), standard.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(self._run(ours.model), self._run(standard.model))

    def test_training_and_inference_give_the_same_logits(self) -> None:
        model = self.subject().model
        training = self.logits(model.train()(self.inputs())).detach()
        with torch.inference_mode():
            assert torch.equal(self.logits(model.eval()(self.inputs())), training)

    def test_weights_are_those_of_seed_and_name(self) -> None:
        torch.manual_seed(self.seed + 1)
        model, tensors = self.subject()
        parameters = dict(model.named_parameters())
        for tensor in tensors:
            assert torch.equal(parameters[tensor.name], draw(tensor, self.seed).to(parameters[tensor.name])), (
                tensor.name
            )

    def test_copies_and_saved_weights_give_the_same_logits(self) -> None:
        model, tensors = self.subject()
        expected = self._run(model)
        copied = copy.deepcopy(model)
        assert torch.equal(self._run(copied), expected)
        assert [group["names"] for group in grouped(copied, tensors)] == [g["names"] for g in grouped(model, tensors)]
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        copied.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(self._run(copied), expected)

    def test_a_step_is_finite_and_moves_every_tensor(self) -> None:
        model, tensors = self.subject()
        optimizer = make(grouped(model, tensors))
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for _ in range(2):  # what stands behind a tensor that begins at zero has no gradient in the first
            logits = self.logits(model(self.inputs())).flatten(0, -2)
            targets = torch.arange(len(logits)) % logits.shape[-1]
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(logits, targets))
            optimizer.step()
        for name, parameter in model.named_parameters():
            assert parameter.isfinite().all(), name
            if parameter.requires_grad:
                assert not torch.equal(parameter, before[name]), f"{name} has not moved"

    def _run(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return self.logits(model.eval()(self.inputs()))

    def _config(self, scheme: str, grown: bool) -> RunConfig:
        """A run config of the model, at its base shape or twice as wide and deep."""
        width, depth = self.model["width"], self.model["depth"]
        size = {"width": 2 * width, "depth": 2 * depth} if grown else {}
        if grown and "kv_heads" in self.model and "heads" not in self.model:
            size["kv_heads"] = 2 * self.model["kv_heads"]
        quoted = {"base_width": width, "base_depth": depth}
        quoted |= {"base_tokens": TOKENS, "base_batch_tokens": BATCH_TOKENS}
        needed = {key: quoted[key] for key in SCHEMES[scheme].needs}
        train = {"tokens": TOKENS * (2 if grown else 1), "batch_tokens": BATCH_TOKENS, "seed": self.seed}
        data = {
            "model": {**self.model, **size},
            "parametrization": {"name": scheme, **needed},
            "optimizer": dict(self.optimizer),
            "data": dict(self.data),
            "train": train,
        }
        return validate(RunConfig, Source("ModelContract", data))
