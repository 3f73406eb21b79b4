"""Forward and backward of a training step, replayed from CUDA graphs.

A step of a small or a quantized model is a few thousand kernels of some microseconds each. Python launches them one by
one and is slower than the GPU, which waits most of the time. A graph records the launches once and repeats them by a
single call: the same kernels on the same memory. So inputs are copied into fixed tensors, gradients add up in fixed
ones, and each padded length has a graph of its own (`graph_shapes`). All share a pool of memory, since no two run at
once. The optimizer, the scaler's update and all that Trainer does between steps stay outside and are what they were.

References
----------
PyTorch's notes on CUDA graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.llm.finetune.graph_shapes import GraphShape
from lora_edu.llm.finetune.scored_loss import IGNORED

Step = Callable[[dict[str, Any], Tensor], Tensor]
"""Forward and backward of a batch, whose loss is divided by a count of tokens; returns that loss."""


class StepGraphs:
    """A step at each of a few padded lengths.

    Parameters
    ----------
    step
        What is recorded. It adds to the gradients of `parameters` and changes nothing else.
    parameters
        Those that train. Between steps their ``grad`` may be set to None, as ``zero_grad`` does.
    shapes
        The padded batches.
    padding
        The token that fills rows up.

    Raises
    ------
    RuntimeError
        Something in the step cannot be recorded, or there is not enough memory. Gradients are None again, and the
        random numbers go on as if nothing had been tried.
    """

    def __init__(
        self, step: Step, parameters: Iterable[nn.Parameter], shapes: Sequence[GraphShape], padding: int
    ):
        self._parameters = [p for p in parameters if p.requires_grad]
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        device = self._parameters[0].device
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        # The largest first: what it needs is room enough for the others.
        by_size = sorted(shapes, key=lambda shape: shape.tokens, reverse=True)
        slots = [_Slots(shape, padding, device) for shape in by_size]
        stream = torch.cuda.current_stream(device)
        try:
            with torch.random.fork_rng([device]):
                for each in slots:  # all before the first capture, which keeps its memory
                    self._warm_up(step, each)
                graphs = [self._record(step, each) for each in slots]
        except RuntimeError:
            _end_capture_of_random_numbers(device)
            raise
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own current
            self._drop_gradients()
        self._graphs = graphs[::-1]

    @property
    def lengths(self) -> list[int]:
        """The padded lengths, ascending."""
        return [graph.slots.shape.tokens for graph in self._graphs]

    def __call__(self, batch: dict[str, Tensor], count: Tensor) -> Tensor:
        """Replay the step on a batch of at most as many rows and tokens as were recorded; return the loss."""
        tokens = batch["input_ids"].shape[1]
        graph = next(graph for graph in self._graphs if graph.slots.shape.tokens >= tokens)
        graph.slots.fill(batch, count)
        if self._parameters[0].grad is None:
            self._begin_sum()
        graph.replay()
        return graph.loss.clone()

    def _warm_up(self, step: Step, slots: "_Slots") -> None:
        """Run a step as it is: what a first run sets up (handles, compiled kernels) cannot be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._begin_sum()
            step(slots.batch(), slots.count)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _record(self, step: Step, slots: "_Slots") -> "_Recorded":
        graph = torch.cuda.CUDAGraph()
        self._begin_sum()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            loss = step(slots.batch(), slots.count)
        return _Recorded(graph, slots, loss)

    def _begin_sum(self) -> None:
        """Let the gradients add up from zero, always in the same memory."""
        torch._foreach_zero_(self._gradients)  # pyright: ignore[reportPrivateImportUsage]
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def _drop_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def _end_capture_of_random_numbers(device: torch.device) -> None:
    """Let a GPU draw again after a capture that failed: PyTorch leaves its generator's state as in a capture."""
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())


class _Slots:
    """The fixed tensors that a graph reads."""

    def __init__(self, shape: GraphShape, padding: int, device: torch.device):
        self.shape, self._padding = shape, padding
        size = shape.rows, shape.tokens
        self.ids = torch.full(size, padding, dtype=torch.long, device=device)
        self.labels = torch.full(size, padding, dtype=torch.long, device=device)
        self.count = torch.ones((), device=device)

    def batch(self) -> dict[str, Any]:
        """What the step gets. No mask: rows are filled up on the right, where their tokens' attention never looks."""
        return {"input_ids": self.ids, "labels": self.labels, "scored": self.shape.scored}

    def fill(self, batch: dict[str, Tensor], count: Tensor) -> None:
        rows, tokens = batch["input_ids"].shape
        self.ids.fill_(self._padding)[:rows, :tokens].copy_(batch["input_ids"])
        self.labels.fill_(IGNORED)[:rows, :tokens].copy_(batch["labels"])
        self.count.copy_(count)


class _Recorded:
    """A graph, what it reads and what it writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, slots: _Slots, loss: Tensor):
        self.replay, self.slots, self.loss = graph.replay, slots, loss
