"""What a compiled program moves, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from ssd_jax.box.numerics import bounded
from ssd_jax.loop import hlo
from ssd_jax.loop.hlo import Module

CONV = 'op_name="jit(step)/jvp(SSD)/conv1" stack_frame_id=3'
PSUM = 'op_name="jit(step)/psum" stack_frame_id=1'
SLICE = 'op_name="jit(step)/slice" stack_frame_id=2'
# A program as the TPU compiler writes it: arrays are stored in tiles of 8 x 128, and S(1) is memory of the chip.
TPU = f"""HloModule jit_step, is_scheduled=true

FileNames
1 "{hlo.PACKAGE}/training/step.py"
2 "{hlo.PACKAGE}/model/layers.py"
3 "/site-packages/flax/linear.py"

FunctionNames
1 "step"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=10 end_line=10 column=1 end_column=2}}
2 {{file_name_id=2 function_name_id=1 line=20 end_line=20 column=1 end_column=2}}
3 {{file_name_id=3 function_name_id=1 line=30 end_line=30 column=1 end_column=2}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=2}}
3 {{file_location_id=3 parent_frame_id=3}}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{
  %state = (s32[]{{:T(128)}}, f32[8,128]{{1,0:T(8,128)}}) parameter(0)
  %one = s32[]{{:T(128)}} constant(1)
  %i = s32[]{{:T(128)S(1)}} get-tuple-element(%state), index=0
  %v = f32[8,128]{{1,0:T(8,128)}} get-tuple-element(%state), index=1
  %next = s32[]{{:T(128)S(1)}} add(%i, %i)
  %w = f32[8,128]{{1,0:T(8,128)}} add(%v, %v)
  ROOT %both = (s32[]{{:T(128)}}, f32[8,128]{{1,0:T(8,128)}}) tuple(%next, %w)
}}

%condition (state.1: (s32[], f32[8,128])) -> pred[] {{
  %state.1 = (s32[]{{:T(128)}}, f32[8,128]{{1,0:T(8,128)}}) parameter(0)
  %limit = s32[]{{:T(128)}} constant(7)
  %j = s32[]{{:T(128)S(1)}} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{{:T(512)S(1)}} compare(%j, %limit), direction=LT
}}

%fused (p.0: f32[64,128], p.1: s32[]) -> f32[8,128] {{
  %p.0 = f32[64,128]{{1,0:T(8,128)}} parameter(0)
  %p.1 = s32[]{{:T(128)}} parameter(1)
  %zero = s32[]{{:T(128)}} constant(0)
  ROOT %part = f32[8,128]{{1,0:T(8,128)}} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={{8,128}}
}}

ENTRY %main (x: bf16[2,3,5,64], y: f32[64,128], n: s32[]) -> f32[8,128] {{
  %x = bf16[2,3,5,64]{{3,0,2,1:T(8,128)(2,1)}} parameter(0)
  %y = f32[64,128]{{1,0:T(8,128)}} parameter(1)
  %n = s32[]{{:T(128)S(1)}} parameter(2)
  %conv = bf16[2,3,5,64]{{3,0,2,1:T(8,128)(2,1)S(1)}} copy(%x), metadata={{{CONV}}}
  %copy-start = (f32[64,128]{{1,0:T(8,128)S(1)}}, f32[64,128]{{1,0:T(8,128)}}, u32[]{{:S(2)}}) copy-start(%y)
  %copy-done = f32[64,128]{{1,0:T(8,128)S(1)}} copy-done(%copy-start)
  %sum = f32[64,128]{{1,0:T(8,128)}} all-reduce(%copy-done), to_apply=%add, metadata={{{PSUM}}}
  %row = f32[8,128]{{1,0:T(8,128)}} fusion(%sum, %n), kind=kLoop, calls=%fused, metadata={{{SLICE}}}
  %first = (s32[]{{:T(128)}}, f32[8,128]{{1,0:T(8,128)}}) tuple(%n, %row)
  %loop = (s32[]{{:T(128)}}, f32[8,128]{{1,0:T(8,128)}}) while(%first), condition=%condition, body=%body
  ROOT %out = f32[8,128]{{1,0:T(8,128)}} get-tuple-element(%loop), index=1
}}
"""
TILE = 8 * 128 * 4  # bytes of float32


@pytest.fixture(scope="module")
def costs():
    return {cost.name: cost for cost in Module(TPU).costs()}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (
            "conv",
            3 * 5 * 8 * 128 * 2,
        ),  # two images and 64 channels fill a tile of 8 x 128; the result stays on the chip
        ("copy-start", 8 * TILE),  # read once
        ("sum", 8 * TILE),  # its operand is on the chip
        ("row", TILE + TILE),  # a part of its operand is read
        ("w", 7 * (2 * TILE + TILE)),  # twice read and once written, seven times
    ],
)
def test_bytes_are_those_that_reach_the_memory(costs, name, size):
    assert costs[name].size == size


def test_what_only_names_arrays_costs_nothing(costs):
    assert costs.keys() == {"conv", "copy-start", "sum", "row", "w", "next"}
    assert costs["next"].size == 0


def test_the_source_is_the_innermost_line_of_the_package(costs):
    assert costs["conv"][2:4] == ("jvp(SSD)/conv1", "model/layers.py:20")
    assert costs["row"].source == "model/layers.py:20"


def test_a_copy_has_the_source_of_what_it_is_for(costs):
    assert costs["copy-start"][2:4] == ("psum", "training/step.py:10")


def test_a_collective_reduces_its_operands_wherever_they_lie(costs):
    assert costs["sum"].payload == 8 * TILE


def test_what_stays_on_the_chip_counts_if_asked_for():
    everywhere = {cost.name: cost.size for cost in Module(TPU, on_chip=True).costs()}
    assert everywhere["conv"] == 2 * 3 * 5 * 8 * 128 * 2
    assert everywhere["sum"] == 2 * 8 * TILE
    assert everywhere["next"] == 7 * 3 * 4


def schedule(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return Module(f"HloModule step, is_scheduled=true\n\nENTRY %main (x: f32[8]) -> f32[8] {{\n{body}\n}}\n").costs()


GRADIENT = '%g = f32[8] multiply(%x, %x), metadata={op_name="jit(step)/transpose(jvp(SSD))/mul"}'
START = "%start = f32[8] all-reduce-start(%x), to_apply=%add"
DONE = "%done = f32[8] all-reduce-done(%start)"


@pytest.mark.parametrize(
    ("lines", "overlaps"),
    [
        ((START, GRADIENT, DONE), True),
        ((GRADIENT, START, DONE), False),
        ((START, DONE, GRADIENT), False),
        ((START, GRADIENT.replace("transpose(jvp(SSD))", "jvp(SSD)"), DONE), False),
        (("%start = f32[8] all-reduce(%x), to_apply=%add", GRADIENT), False),
    ],
)
def test_a_collective_overlaps_with_the_gradients_that_are_computed_before_it_ends(lines, overlaps):
    costs = schedule("%x = f32[8] parameter(0)", *lines)
    assert [cost.overlaps for cost in costs if cost.name == "start"] == [overlaps]


def test_a_program_of_this_machine_is_read():
    def step(x, y):
        return bounded(x, -1, 1) @ y, jax.lax.fori_loop(0, 5, lambda i, z: jnp.sin(z) * 2, x)

    shape = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    costs = Module(jax.jit(step).lower(shape, shape).compile().as_text()).costs()
    assert any(cost.source.startswith("box/numerics.py:") for cost in costs)
    assert sum(cost.size for cost in costs) >= (3 + 2) * 32 * 32 * 4
