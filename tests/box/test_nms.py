import box_oracles as oracles
import jax
import numpy as np

from ssd_jax import box


def scene(seed, count=120, classes=5):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (count, 2))
    corners = np.concatenate([low, low + rng.uniform(0.05, 0.4, (count, 2))], axis=1).astype(np.float32)
    logits = rng.normal(0, 2, (count, classes))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return corners, np.round(scores, 2).astype(np.float32)  # rounded, so that there are ties


def test_multiclass_nms_is_caffes_loop():
    options = {"score_threshold": 0.05, "max_candidates": 40, "iou_threshold": 0.45, "max_detections": 30}
    select = jax.jit(lambda c, s: box.multiclass_nms(c, s, **options))
    for seed in range(4):
        corners, scores = scene(seed)
        found = oracles.multiclass_nms(box.iou(corners, corners), scores, **options)
        boxes, best, labels = select(corners, scores)
        np.testing.assert_array_equal(labels, [f[2] for f in found])
        np.testing.assert_array_equal(best, np.float32([f[1] for f in found]))
        np.testing.assert_array_equal(boxes, corners[[f[0] for f in found]])
