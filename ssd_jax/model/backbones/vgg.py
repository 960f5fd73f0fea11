"""VGG16 as a backbone of SSD: fc6 and fc7 are convolutions, fc6 dilated (paper, section 3)."""

from collections.abc import Callable

import flax.linen as nn
import jax

from ssd_jax.model.layers import pool2, pool5, scaled

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """The part of VGG16 that SSD uses, with two maps: conv4_3 (stride 8, 512 channels) and fc7 (stride 16, 1024).

    The ReLU before a pooling is applied after it: values and gradients are the same, because a maximum commutes with
    it. So a map before pooling is stored once, and its gradient needs no mask.

    Attributes:
      block: `block(features, **options)` makes a convolution block.
      width: factor on the number of channels.
    """

    block: Callable[..., nn.Module]
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map images `[B, H, W, 3]` to `[conv4_3, fc7]`."""
        maps = []
        for stage, layers in enumerate(STAGES, start=1):
            for layer, features in enumerate(layers, start=1):
                activation = "relu" if layer < len(layers) else None
                block = self.block(scaled(features, self.width), activation=activation, name=f"conv{stage}_{layer}")
                x = block(x, train=train)
            if stage == 4:
                maps.append(nn.relu(x))
            x = nn.relu(pool2(x) if stage < 5 else pool5(x))
        x = self.block(scaled(1024, self.width), dilation=6, name="fc6")(x, train=train)
        x = self.block(scaled(1024, self.width), kernel=1, name="fc7")(x, train=train)
        return [*maps, x]
