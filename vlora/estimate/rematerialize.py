"""Recomputation in the backward pass, inserted into a graph that was traced without it. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import attrs

from .graph import VIEWS, Array, Graph, Node, topological_order
from .simplify import bypass


@attrs.frozen(kw_only=True, eq=False)
class RematRegion:
    """A function that is recomputed in the backward pass, described by the marks around it.

    Attributes:
        enters: Marks that its arguments are multiplied by.
        leaves: Marks that its results are multiplied by.
        first: The mark of the argument whose gradient is passed on after those of all others; None if there is none.
        waits: What the recomputation waits for: the gradients of the results, or only the results themselves
            (`mx.checkpoint`).
    """

    enters: frozenset[str]
    leaves: frozenset[str]
    first: str | None = None
    waits: Literal["gradients", "results"] = "gradients"


def rematerialize(graph: Graph, regions: Sequence[RematRegion]) -> Graph:
    """Let the backward pass read copies of the regions' operations, computed after what they wait for.

    Args:
        graph: Traced with marks: every argument of a region is multiplied by one when it enters, and every result when
            it leaves. The mark is the right factor in the forward pass, and the left one in the backward pass.
        regions: The regions, inner ones first.
    """
    edited = _EditableGraph.of(graph)
    marks = {mark for region in regions for mark in region.enters | region.leaves}
    origin = {array: array for array in marks}
    crossed: dict[str, list[str]] = defaultdict(list)
    gradients: dict[str, list[str]] = defaultdict(list)
    passed: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        found = [origin.get(array) for array in node.inputs]
        if len(node.inputs) == 1 and node.name in VIEWS | {"AsType"} and found[0] is not None:
            origin[node.outputs[0]] = found[0]
        elif node.name == "Multiply" and found[1] is not None:
            crossed[found[1]].append(node.outputs[0])
            edited.replace(node, attrs.evolve(node, name="Mark", inputs=node.inputs[:1]))
        elif node.name == "Multiply" and found[0] is not None:
            gradients[found[0]].append(node.inputs[1])
            mark = attrs.evolve(node, name="Mark", inputs=node.inputs[1:])
            passed[found[0]].append(mark)
            edited.replace(node, mark)
    for region in regions:
        if region.first is not None:
            others = tuple(array for mark in region.enters - {region.first} for array in gradients[mark])
            for node in passed[region.first]:
                edited.replace(node, attrs.evolve(node, name="Depends", inputs=(*node.inputs, *others)))
    for number, region in enumerate(regions):
        starts = {array for mark in region.enters for array in crossed[mark]}
        ends = {array for mark in region.leaves for array in crossed[mark]}
        pulled = tuple(array for mark in region.leaves for array in gradients[mark])
        after = pulled if region.waits == "gradients" else tuple(sorted(ends))
        if pulled:
            edited.copy_region(starts, ends, after, f"'{number}", is_checkpoint=region.waits == "results")
    nodes = topological_order(list({id(node): node for node in edited.made_by.values()}.values()))
    return bypass(attrs.evolve(graph, nodes=tuple(nodes), arrays=edited.arrays), frozenset({"Mark"}))


@attrs.define
class _EditableGraph:
    """Replaceable operations, indexed by the arrays that they write and read."""

    arrays: dict[str, Array]
    made_by: dict[str, Node]
    read_by: dict[str, set[str]]

    @classmethod
    def of(cls, graph: Graph) -> "_EditableGraph":
        edited = cls(dict(graph.arrays), {}, defaultdict(set))
        for node in graph.nodes:
            edited.add(node)
        return edited

    def add(self, node: Node) -> None:
        for output in node.outputs:
            self.made_by[output] = node
        for array in node.inputs:
            # Identified by its first result, since the operation itself may be replaced.
            self.read_by[array].add(node.outputs[0])

    def replace(self, old: Node, new: Node) -> None:
        for array in old.inputs:
            self.read_by[array].discard(old.outputs[0])
        self.add(new)

    def between(self, starts: set[str], ends: set[str]) -> set[str]:
        """Find the arrays on the paths from `starts` to `ends`, both included."""
        above: list[Node] = []
        seen: set[str] = set()
        stack = [(array, False) for array in ends]
        while stack:
            array, is_done = stack.pop()
            node = self.made_by.get(array)
            if node is None:
                continue
            if is_done:
                above.append(node)
            elif node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                stack.append((array, True))
                if array not in starts:
                    stack.extend((given, False) for given in node.inputs)
        entered = set(starts)
        for node in above:
            if not entered.isdisjoint(node.inputs):
                entered.update(node.outputs)
        return entered

    def copy_region(
        self, starts: set[str], ends: set[str], after: tuple[str, ...], suffix: str, *, is_checkpoint: bool
    ) -> None:
        """Let outside readers of a region read copies that are made after the arrays `after`."""
        inside = self.between(starts, ends)
        wanted: list[str] = []
        for array in inside - ends:
            for reader in list(self.read_by[array]):
                if reader not in inside:
                    node = self.made_by[reader]
                    inputs = tuple(f"{given}{suffix}" if given == array else given for given in node.inputs)
                    self.replace(node, attrs.evolve(node, inputs=inputs))
                    wanted.append(array)
        copied: set[str] = set()
        begun: list[Node] = []
        while wanted:
            node = self.made_by[wanted.pop()]
            if node.outputs[0] in copied:
                continue
            copied.add(node.outputs[0])
            if node.outputs[0] in starts:
                begun.append(node)
                continue
            own, more = node.inputs, tuple[str, ...]()
            if node.name == "Depends" and not is_checkpoint:
                # What a gradient of vlora's own repeats waits for what arrives there.
                own, more = node.inputs[: len(node.outputs)], after
            wanted.extend(array for array in own if array in inside)
            inputs = tuple(f"{array}{suffix}" if array in inside else array for array in own)
            self._add_copy(node.name, node.arguments, (*inputs, *more), node.outputs, suffix)
        # The arguments of a checkpoint begin anew together.
        for nodes in [begun] if is_checkpoint else [[node] for node in begun]:
            if nodes:
                own = tuple(node.inputs[0] for node in nodes)
                self._add_copy("Depends", "", (*own, *after), tuple(node.outputs[0] for node in nodes), suffix)

    def _add_copy(
        self, name: str, arguments: str, inputs: tuple[str, ...], outputs: tuple[str, ...], suffix: str
    ) -> None:
        copies = tuple(f"{output}{suffix}" for output in outputs)
        self.arrays.update({new: self.arrays[old] for new, old in zip(copies, outputs, strict=True)})
        self.add(Node(name, arguments, inputs, copies))
