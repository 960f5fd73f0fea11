"""Time the box functions against a naive form under jit, and against PyTorch where torch is installed.

    python benchmarks/boxes.py [--repeats=5] [--markdown=FILE]

Each row runs its variants in turn in one process, so that a busy machine slows all of them, and prints the least time
of ours and the ratios of the others to it. Every run checks that the naive forms give the same results.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import Table, best_times, machine

from ssd_jax import box, loss

try:
    import torch  # pyright: ignore[reportMissingImports]
except ImportError:
    torch: Any = None

PRIORS = box.make_priors(box.SSD300_VOC)
CORNERS = box.center_to_corner(PRIORS)
P = len(PRIORS)


# Naive forms: the loops of the tests' oracles, written for jit.


def naive_match(corners, valid):
    """Match greedily, one pair at a time over all of [G, P], then by the threshold."""
    overlap = jnp.where(valid[:, None], box.iou(corners, CORNERS), 0)

    def take(_, state):
        left, index = state
        prior = jnp.argmax(jnp.max(left, axis=0))
        truth = jnp.argmax(left[:, prior])
        found = left[truth, prior] > 1e-6
        index = jnp.where(found, index.at[prior].set(truth), index)
        left = jnp.where(found, left.at[truth].set(0).at[:, prior].set(0), left)
        return left, index

    _, index = jax.lax.fori_loop(0, len(corners), take, (overlap, jnp.full(P, -1)))
    by_threshold = jnp.where(jnp.max(overlap, axis=0) >= 0.5, jnp.argmax(overlap, axis=0), -1)
    return jnp.where(index >= 0, index, by_threshold)


def naive_mining(losses, positive):
    """Choose negatives by the rank of their loss, from two sorts."""
    rank = jnp.argsort(jnp.argsort(jnp.where(positive, jnp.inf, -losses)))
    return (rank < 3 * jnp.sum(positive)) & ~positive


def naive_nms(corners, scores):
    """Suppress boxes of one class in one pass over the candidates, in their order."""
    scores, order = jax.lax.top_k(jnp.where(scores > 0.01, scores, -jnp.inf), 400)
    overlaps = box.iou(corners[order], corners[order]) > 0.45

    def visit(i, keep):
        return keep & ~(keep[i] & overlaps[i] & (jnp.arange(400) > i))

    return jax.lax.fori_loop(0, 400, visit, scores > -jnp.inf), scores, order


def naive_multiclass_nms(corners, scores):
    keep, best, order = jax.vmap(naive_nms, in_axes=(None, 1))(corners, scores[:, 1:])
    best, place = jax.lax.top_k(jnp.where(keep, best, 0).ravel(), 200)
    return jnp.where((best > 0)[:, None], corners[order.ravel()[place]], 0), best


def naive_assign(corners, labels):
    index = naive_match(corners, labels > 0)
    offsets = box.encode(corners[index], PRIORS)
    return jnp.where((index >= 0)[:, None], offsets, 0), jnp.where(index >= 0, labels[index], 0)


def naive_loss(offsets, logits, target_offsets, target_labels):
    positive = target_labels > 0
    x = jnp.abs(offsets - target_offsets)
    error = jnp.sum(jnp.where(x < 1, 0.5 * x**2, x - 0.5), axis=1)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), target_labels[:, None], axis=1)[:, 0]
    chosen = positive | naive_mining(jax.lax.stop_gradient(entropy), positive)
    return jnp.sum(jnp.where(positive, error, 0)), jnp.sum(jnp.where(chosen, entropy, 0)), jnp.sum(positive)


# PyTorch, written like its detection reference: a Python loop over images, ground truth not padded.


def torch_iou(a, b):
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)
    area = [(x[:, 2:] - x[:, :2]).prod(dim=1) for x in (a, b)]
    return inside / (area[0][:, None] + area[1] - inside)


def torch_match(corners, valid):
    """Match each box's best prior, then by the threshold; ours does more, since it gives each box a prior."""
    priors, found = torch.from_numpy(CORNERS), []
    for truth in torch.from_numpy(corners):
        overlap = torch_iou(truth, priors)
        best, index = overlap.max(dim=0)
        index[best < 0.5] = -1
        index[overlap.argmax(dim=1)] = torch.arange(len(truth))
        found.append(index)
    return found


def torch_mining(losses, positive):
    losses, positive = torch.from_numpy(losses), torch.from_numpy(positive)
    rank = losses.masked_fill(positive, -torch.inf).sort(dim=1, descending=True)[1].sort(dim=1)[1]
    return rank < 3 * positive.sum(dim=1, keepdim=True)


def torch_match_and_loss(corners, labels, offsets, logits):
    offsets, logits = (torch.from_numpy(x).requires_grad_() for x in (offsets, logits))
    centers, variances = torch.from_numpy(PRIORS), torch.tensor(box.VARIANCES)
    loc, targets = 0, torch.zeros(logits.shape[:2], dtype=torch.int64)
    for i, index in enumerate(torch_match(corners, None)):
        found = torch.where(index >= 0)[0]
        truth, prior = torch.from_numpy(corners[i])[index[found]], centers[found]
        size = truth[:, 2:] - truth[:, :2]
        middle = (truth[:, :2] + truth[:, 2:]) / 2
        wanted = torch.cat([(middle - prior[:, :2]) / prior[:, 2:], (size / prior[:, 2:]).log()], 1) / variances
        loc = loc + torch.nn.functional.smooth_l1_loss(offsets[i, found], wanted, reduction="sum")
        targets[i, found] = torch.from_numpy(labels[i]).long()[index[found]]
    entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    entropy, positive = entropy.view(targets.shape), targets > 0
    rank = entropy.detach().masked_fill(positive, -torch.inf).sort(dim=1, descending=True)[1].sort(dim=1)[1]
    chosen = positive | (rank < 3 * positive.sum(dim=1, keepdim=True))
    (loc + entropy[chosen].sum()).backward()
    return offsets.grad, logits.grad


def torch_multiclass_nms(corners, scores):
    """Suppress greedily, one row of overlaps at a time; torchvision's compiled operator is not part of torch."""
    found = []
    for boxes, table in zip(torch.from_numpy(corners), torch.from_numpy(scores), strict=True):
        kept = []
        for column in table.T[1:]:
            best, order = column.masked_fill(column <= 0.01, 0).topk(400)
            order = order[best > 0]
            overlaps = (torch_iou(boxes[order], boxes[order]) > 0.45).numpy()
            keep = np.ones(len(order), bool)
            for i in range(len(order)):
                if keep[i]:
                    keep[i + 1 :] &= ~overlaps[i, i + 1 :]
            kept.append(best[: len(order)][torch.from_numpy(keep)])
        scores_left = torch.cat(kept)
        found.append(scores_left.topk(min(200, len(scores_left)))[0])
    return found


# Data.


def ground_truth(images, count, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (images, count, 2))
    corners = np.concatenate([low, np.minimum(low + rng.uniform(0.03, 0.5, low.shape), 1)], axis=2)
    return corners.astype(np.float32), rng.integers(1, 21, (images, count)).astype(np.int32)


def heads(images, classes, seed=0):
    rng = np.random.default_rng(seed)
    offsets = rng.normal(0, 0.5, (images, P, 4)).astype(np.float32)
    return offsets, rng.normal(0, 1, (images, P, classes)).astype(np.float32)


def predictions(images, classes, *, trained, seed=0):
    """Make boxes and scores: of 8 objects in an image, each found by many priors, or of an untrained network."""
    offsets, logits = heads(images, classes, seed)
    if trained:
        logits[..., 0] += 9
        corners, labels = ground_truth(images, 8, seed)
        for b in range(images):
            overlap = box.iou(corners[b], CORNERS)
            for truth, label in zip(overlap, labels[b] % (classes - 1) + 1, strict=True):
                logits[b, :, label] += np.where(truth > 0.4, 14 * truth, 0)
    boxes = np.stack([box.decode(o, PRIORS) for o in offsets])
    return boxes, np.array(jax.nn.softmax(logits, axis=-1))


# Comparison.


def same(ours, naive):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(naive), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


class Comparison(Table):
    """A table of milliseconds per image."""

    def __init__(self, repeats):
        super().__init__("what", "images", "ours, ms per image", "naive / ours", "torch / ours")
        self.repeats = repeats

    def compare(self, what, images, ours, naive=None, other=None):
        if naive is not None:
            same(ours(), naive())
        variants = {"ours": ours, "naive": naive, "torch": other if torch else None}
        times = best_times({name: run for name, run in variants.items() if run}, self.repeats)
        ratios = [f"{times[k] / times['ours']:.2f}" if k in times else "-" for k in ("naive", "torch")]
        self.row(what, images, f"{times['ours'] / images * 1e3:.3f}", *ratios)


def batched(function, *arguments):
    compiled = jax.jit(jax.vmap(function))
    on_device = jax.device_put(arguments)
    return lambda: compiled(*on_device)


def with_gradient(assign, multibox):
    def total(corners, labels, offsets, logits):
        targets = jax.vmap(assign)(corners, labels)
        loc, conf, positives = jax.vmap(multibox)(offsets, logits, *targets)
        return (jnp.sum(loc) + jnp.sum(conf)) / jnp.sum(positives)

    return jax.jit(jax.value_and_grad(total, argnums=(2, 3)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", help="also write the table to this file")
    parser.add_argument("--quick", action="store_true", help="skip the slow rows and the growth of the cost")
    options = parser.parse_args()
    table = Comparison(options.repeats)

    for count in (8, 100):
        corners, labels = ground_truth(32, count)
        table.compare(
            f"match, {count} boxes",
            32,
            batched(lambda c, v: box.match(c, v, PRIORS), corners, labels > 0),
            batched(naive_match, corners, labels > 0),
            lambda corners=corners: torch_match(corners, None),
        )
    losses = np.random.default_rng(0).exponential(size=(32, P)).astype(np.float32)
    positive = np.random.default_rng(1).uniform(size=(32, P)) < 0.005
    table.compare(
        "mining",
        32,
        batched(loss.hard_negatives, losses, positive),
        batched(naive_mining, losses, positive),
        lambda: torch_mining(losses, positive),
    )
    corners, labels = ground_truth(32, 8)
    offsets, logits = heads(32, 21)
    arguments = jax.device_put((corners, labels, offsets, logits))
    ours = with_gradient(lambda c, l: box.assign(c, l, PRIORS), loss.multibox_loss)
    naive = with_gradient(naive_assign, naive_loss)
    table.compare(
        "match + loss, forward + backward, 8 boxes",
        32,
        lambda: ours(*arguments),
        lambda: naive(*arguments),
        lambda: torch_match_and_loss(corners, labels, offsets, logits),
    )
    for classes in (21, 81):
        for images in (1, 8, 32):
            if options.quick and images * classes > 200:
                continue
            for trained in (True, False):
                boxes, scores = predictions(images, classes, trained=trained)
                table.compare(
                    f"multiclass NMS, {classes - 1} classes, {'trained' if trained else 'untrained'}",
                    images,
                    batched(lambda b, s: box.multiclass_nms(b, s)[:2], boxes, scores),
                    batched(naive_multiclass_nms, boxes, scores),
                    (lambda boxes=boxes, scores=scores: torch_multiclass_nms(boxes, scores)) if images == 1 else None,
                )
    if not options.quick:
        growth(table)
    lines = [machine(*(["torch"] if torch else [])), "", *table.lines]
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write("\n".join(lines) + "\n")


def growth(table):
    """Measure how the cost of an image grows with G, P, C and B; no step may grow faster than linearly in B and P."""
    for count in (8, 16, 32, 64, 128):
        corners, labels = ground_truth(8, count)
        table.compare(f"match, G = {count}", 8, batched(lambda c, v: box.match(c, v, PRIORS), corners, labels > 0))
    corners, labels = ground_truth(8, 16)
    for spec in (box.SSD300_VOC, box.SSD512_VOC, box.linear_spec(1024, (128, 64, 32, 16, 8, 4, 2))):
        priors = box.make_priors(spec)
        match = batched(lambda c, v, priors=priors: box.match(c, v, priors), corners, labels > 0)
        table.compare(f"match, P = {len(priors)}", 8, match)
    for priors in (P, 2 * P, 4 * P):
        losses = np.random.default_rng(0).exponential(size=(8, priors)).astype(np.float32)
        positive = losses < 0.005
        table.compare(f"mining, P = {priors}", 8, batched(loss.hard_negatives, losses, positive))
    for classes in (11, 21, 41, 81):
        boxes, scores = predictions(4, classes, trained=True)
        table.compare(f"multiclass NMS, C = {classes}", 4, batched(box.multiclass_nms, boxes, scores))
    for images in (1, 4, 16, 64):
        corners, labels = ground_truth(images, 16)
        match = batched(lambda c, v: box.match(c, v, PRIORS), corners, labels > 0)
        table.compare("match, G = 16, by batch", images, match)
    for images in (1, 4, 16):
        boxes, scores = predictions(images, 21, trained=True)
        table.compare("multiclass NMS, by batch", images, batched(box.multiclass_nms, boxes, scores))


if __name__ == "__main__":
    main()
