"""Writers of datasets in every layout that `auto` reads, from the images of a source."""

import base64
import json

import cv2
import numpy as np
import pytest


def pixels(example):
    """Return the corners of the boxes in pixels, [n, 4]."""
    height, width = example.image.shape[:2]
    return example.boxes.astype(np.float64) * (width, height, width, height)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image[:, :, ::-1])[1].tobytes())


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def objects(source, example):
    """Give (class name, corners in pixels) of each object."""
    for label, corners in zip(example.labels.tolist(), pixels(example).tolist(), strict=True):
        yield source.class_names[label - 1], corners


def voc_xml(source, example):
    height, width = example.image.shape[:2]
    boxes = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for (name, (x0, y0, x1, y1)), difficult in zip(objects(source, example), example.difficult, strict=True)
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{boxes}</annotation>"


def yolo_lines(example):
    lines = []
    for label, (x0, y0, x1, y1) in zip(example.labels, example.boxes.tolist(), strict=True):
        lines.append(f"{label - 1} {(x0 + x1) / 2} {(y0 + y1) / 2} {x1 - x0} {y1 - y0}\n")
    return "".join(lines)


def coco(source, examples, names):
    images = [
        {"id": 10 + i, "file_name": name, "width": e.image.shape[1], "height": e.image.shape[0]}
        for i, (e, name) in enumerate(zip(examples, names, strict=True))
    ]
    rows = [
        {"image_id": 10 + i, "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
        for i, e in enumerate(examples)
        for label, (x0, y0, x1, y1) in zip(e.labels, pixels(e).tolist(), strict=True)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(source.class_names, start=1)]
    return json.dumps(
        {
            "images": images,
            "categories": categories,
            "annotations": [row | {"id": k, "area": 1.0} for k, row in enumerate(rows)],
        }
    )


# Each writes all images of a source below a folder.


def voc_own(root, source):
    for i, example in enumerate(source):
        write_image(root / "JPEGImages" / f"{i:04}.png", example.image)
        write_text(root / "Annotations" / f"{i:04}.xml", voc_xml(source, example))
        with_split = root / "ImageSets" / "Main" / f"{'val' if i % 2 else 'train'}.txt"
        with_split.parent.mkdir(parents=True, exist_ok=True)
        with with_split.open("a") as file:
            file.write(f"{i:04}\n")


def voc_beside(root, source):
    for i, example in enumerate(source):
        write_image(root / f"{i}.png", example.image)
        write_text(root / f"{i}.xml", voc_xml(source, example))


def voc_folders(annotations, images="images"):
    def write(root, source):
        for i, example in enumerate(source):
            write_image(root / images / f"{i}.png", example.image)
            write_text(root / annotations / f"{i}.xml", voc_xml(source, example))

    return write


def voc_nested(root, source):
    """Mirrored folders in which stems repeat."""
    for i, example in enumerate(source):
        split = "test" if i % 2 else "train"
        write_image(root / "images" / split / f"{i // 2}.png", example.image)
        write_text(root / "annotations" / split / f"{i // 2}.xml", voc_xml(source, example))


def coco_own(root, source):
    for part, split in enumerate(("train2017", "val2017")):
        examples = [example for i, example in enumerate(source) if i % 2 == part]
        for i, example in enumerate(examples):
            write_image(root / split / f"{i:012}.png", example.image)
        names = [f"{i:012}.png" for i in range(len(examples))]
        write_text(root / "annotations" / f"instances_{split}.json", coco(source, examples, names))
        captions = {"images": [], "annotations": [{"id": 1, "image_id": 10, "caption": "a dog"}]}
        write_text(root / "annotations" / f"captions_{split}.json", json.dumps(captions))


def coco_roboflow(root, source):
    for part, split in enumerate(("train", "valid", "test")):
        examples = [example for i, example in enumerate(source) if i % 3 == part]
        names = [f"{split}{i}_jpg.rf.{i:08x}.png" for i in range(len(examples))]
        for name, example in zip(names, examples, strict=True):
            write_image(root / split / name, example.image)
        data = json.loads(coco(source, examples, names))
        data["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        write_text(root / split / "_annotations.coco.json", json.dumps(data))


def coco_single(root, source):
    for i, example in enumerate(source):
        write_image(root / "pictures" / f"{i}.png", example.image)
    write_text(root / "labels.json", coco(source, source, [f"{i}.png" for i in range(len(source))]))


def yolo_images(root, source, splits=("train", "val")):
    for i, example in enumerate(source):
        split = splits[i % len(splits)]
        write_image(root / "images" / split / f"{i}.png", example.image)
        if len(example.boxes):  # a missing file is background
            write_text(root / "labels" / split / f"{i}.txt", yolo_lines(example))


def yolo_list_of_names(root, source):
    yolo_images(root, source)
    write_text(
        root / "data.yaml",
        f"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: {list(source.class_names)}\n",
    )


def yolo_dict_of_names(root, source):
    """Lists of folders, and a path of another machine."""
    yolo_images(root, source, ("a", "b", "val"))
    names = "".join(f"  {k}: {name}\n" for k, name in enumerate(source.class_names))
    write_text(
        root / "data.yaml", f"path: /content/d\ntrain: [images/a, images/b]\nval: [images/val]\nnames:\n{names}"
    )


def yolo_lists_of_images(root, source):
    yolo_images(root, source)
    for split in ("train", "val"):
        lines = [f"./images/{split}/{path.name}\n" for path in sorted((root / "images" / split).iterdir())]
        write_text(root / f"{split}.txt", "".join(lines))
    write_text(root / "cells.yml", f"names: {list(source.class_names)}\ntrain: train.txt\nval: val.txt\n")


def yolo_roboflow(root, source):
    for i, example in enumerate(source):
        split = "valid" if i % 2 else "train"
        write_image(root / split / "images" / f"{i}.png", example.image)
        write_text(root / split / "labels" / f"{i}.txt", yolo_lines(example))
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n"
    write_text(root / "data.yaml", f"{text}names: {list(source.class_names)}\n")


def yolo_beside(root, source):
    """As LabelImg writes them."""
    for i, example in enumerate(source):
        write_image(root / "obj" / f"{i}.png", example.image)
        write_text(root / "obj" / f"{i}.txt", yolo_lines(example))
    write_text(root / "obj" / "classes.txt", "\n".join(source.class_names) + "\n")


def yolo_polygons(root, source):
    for i, example in enumerate(source):
        write_image(root / "images" / f"{i}.png", example.image)
        lines = []
        for label, (x0, y0, x1, y1) in zip(example.labels, example.boxes.tolist(), strict=True):
            lines.append(f"{label - 1} {x0} {(y0 + y1) / 2} {(x0 + x1) / 2} {y0} {x1} {y1} {x0} {y1}\n")
        write_text(root / "labels" / f"{i}.txt", "".join(lines))
    write_text(root / "data.yaml", f"train: images\nval: images\nnames: {list(source.class_names)}\n")


def csv_lines(source, examples, names):
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax\n"]
    for name, example in zip(names, examples, strict=True):
        height, width = example.image.shape[:2]
        rows = [f"{kind},{','.join(map(str, corners))}" for kind, corners in objects(source, example)]
        lines += [f"{name},{width},{height},{row}\n" for row in rows or [",,,,"]]
    return "".join(lines)


def csv_tensorflow(root, source):
    for part, split in enumerate(("train", "test")):
        examples = [example for i, example in enumerate(source) if i % 2 == part]
        names = [f"{split}_{i}.png" for i in range(len(examples))]
        for name, example in zip(names, examples, strict=True):
            write_image(root / "images" / name, example.image)
        write_text(root / "data" / f"{split}_labels.csv", csv_lines(source, examples, names))


def csv_open_images(root, source):
    """Only images with boxes have rows, so the others are not in the dataset."""
    lines = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"]
    for i, example in enumerate(source):
        write_image(root / "validation" / f"{i:016x}.png", example.image)
        for label, (x0, y0, x1, y1) in zip(example.labels, example.boxes.tolist(), strict=True):
            lines.append(f"{i:016x},xclick,/m/0{label},1,{x0},{x1},{y0},{y1},0,0,0\n")
        if not len(example.boxes):
            lines.append(f"{i:016x},,,,,,,,,,\n")
    write_text(root / "validation-annotations-bbox.csv", "".join(lines))
    rows = [f"/m/0{k},{name}\n" for k, name in enumerate(source.class_names, start=1)]
    write_text(root / "class-descriptions-boxable.csv", "".join(rows))


def labelme(root, source):
    """Rectangles from any corner to the opposite one, polygons, and a point."""
    for i, example in enumerate(source):
        height, width = example.image.shape[:2]
        write_image(root / f"{i}.png", example.image)
        shapes = [{"label": "spot", "shape_type": "point", "points": [[1, 1]]}]
        for k, (name, (x0, y0, x1, y1)) in enumerate(objects(source, example)):
            points = [[x1, y0], [x0, y1]] if k % 2 else [[x0, y0], [x1, (y0 + y1) / 2], [(x0 + x1) / 2, y1]]
            shapes.append({"label": name, "points": points, "shape_type": "rectangle" if k % 2 else "polygon"})
        data = {"version": "5.0", "shapes": shapes, "imagePath": f"..\\x\\{i}.png", "imageData": None}
        write_text(root / f"{i}.json", json.dumps(data | {"imageHeight": height, "imageWidth": width}))


def labelme_embedded(root, source):
    for i, example in enumerate(source):
        png = cv2.imencode(".png", example.image[:, :, ::-1])[1].tobytes()
        shapes = [
            {"label": name, "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle"}
            for name, (x0, y0, x1, y1) in objects(source, example)
        ]
        data = {"shapes": shapes, "imagePath": f"{i}.png", "imageData": base64.b64encode(png).decode()}
        write_text(root / f"{i}.json", json.dumps(data))


def cvat(root, source):
    images = []
    for i, example in enumerate(source):
        height, width = example.image.shape[:2]
        write_image(root / "images" / f"{i}.png", example.image)
        shapes = ['<polyline label="bright" points="1,1;2,2"/>']
        for k, (name, (x0, y0, x1, y1)) in enumerate(objects(source, example)):
            if k == 0:
                shapes.append(f'<box label="{name}" occluded="0" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>')
            elif k == 1:
                shapes.append(f'<polygon label="{name}" points="{x0},{y0};{x1},{y0};{x1},{y1};{x0},{y1}"/>')
            else:
                place = f'cx="{(x0 + x1) / 2}" cy="{(y0 + y1) / 2}" rx="{(x1 - x0) / 2}" ry="{(y1 - y0) / 2}"'
                shapes.append(f'<ellipse label="{name}" {place}/>')
        subset = "Validation" if i % 2 else "Train"
        images.append(
            f'<image id="{i}" name="{i}.png" subset="{subset}" width="{width}" height="{height}">'
            + "".join(shapes)
            + "</image>"
        )
    labels = "".join(f"<label><name>{name}</name></label>" for name in source.class_names)
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    write_text(root / "annotations.xml", f"<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>")


def label_studio_results(source, example):
    height, width = example.image.shape[:2]
    sides = {"original_width": width, "original_height": height}
    for (name, _), (x0, y0, x1, y1) in zip(objects(source, example), 100 * example.boxes.astype(float), strict=True):
        box = {"x": float(x0), "y": float(y0), "width": float(x1 - x0), "height": float(y1 - y0), "rotation": 0}
        yield sides, box | {"rectanglelabels": [name]}


def label_studio(root, source):
    tasks = []
    for i, example in enumerate(source):
        write_image(root / "images" / f"{i:08x}-my cat {i}.png", example.image)
        results = [
            sides
            | {"id": f"r{k}", "type": "rectanglelabels", "value": value, "from_name": "label", "to_name": "image"}
            for k, (sides, value) in enumerate(label_studio_results(source, example))
        ]
        cancelled = {"was_cancelled": True, "result": []}
        tasks.append(
            {
                "id": i,
                "annotations": [{"id": 1, "was_cancelled": False, "result": results}, cancelled],
                "file_upload": f"{i:08x}-my_cat.png",
                "data": {"image": f"/data/upload/1/{i:08x}-my%20cat%20{i}.png"},
                "predictions": [],
            }
        )
    tasks.append({"id": 99, "annotations": [], "data": {"image": "/data/upload/1/never-labelled.png"}})
    write_text(root / "project-1.json", json.dumps(tasks))


def label_studio_min(root, source):
    """The images have the names that they had before they were uploaded."""
    tasks = []
    for i, example in enumerate(source):
        write_image(root / f"cat {i}.png", example.image)
        labels = [sides | value for sides, value in label_studio_results(source, example)]
        tasks.append({"id": i, "image": f"/data/upload/1/{i:08x}-cat {i}.png", "label": labels})
    write_text(root / "min.json", json.dumps(tasks))


def box_list(root, source):
    for part, split in enumerate(("train", "test")):
        lines = []
        for i, example in enumerate(source):
            if i % 2 == part:
                write_image(root / "images" / f"my cat {i}.png", example.image)
                boxes = [
                    ",".join(map(str, [*corners, source.class_names.index(name)]))
                    for name, corners in objects(source, example)
                ]
                lines.append(" ".join([f"images/my cat {i}.png", *boxes]) + "\n")
        write_text(root / f"{split}.txt", "".join(lines))
    write_text(root / "classes.txt", "".join(f"{name}\n" for name in source.class_names))


def hugging_face(root, source):
    datasets = pytest.importorskip("datasets", reason="needs the extra [datasets]")
    rows = []
    for example in source:
        png = cv2.imencode(".png", example.image[:, :, ::-1])[1].tobytes()
        boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in pixels(example).tolist()]
        labels = [int(label) - 1 for label in example.labels]
        rows.append({"image": {"bytes": png, "path": None}, "objects": {"bbox": boxes, "category": labels}})
    box = datasets.Sequence(datasets.Value("float32"), length=4)
    objects = datasets.Sequence({"bbox": box, "category": datasets.ClassLabel(names=list(source.class_names))})
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    parts = {"train": rows[::2], "validation": rows[1::2]}
    saved = {name: datasets.Dataset.from_list(part, features=features) for name, part in parts.items()}
    datasets.DatasetDict(saved).save_to_disk(root)


def folders_of_datasets(root, source):
    class Part:
        class_names = source.class_names

        def __init__(self, indices):
            self.indices = indices

        def __len__(self):
            return len(self.indices)

        def __getitem__(self, index):
            return source[self.indices[index]]

    half = len(source) // 2
    voc_own(root / "first", Part(range(half)))
    coco_own(root / "second", Part(range(half, len(source))))


# Name: (writer, kind, splits that the data names)
LAYOUTS = {
    "VOC": (voc_own, "voc", {"train", "val"}),
    "VOC side by side": (voc_beside, "voc", set()),
    "VOC annotations": (voc_folders("annotations"), "voc", set()),
    "VOC annots": (voc_folders("annots"), "voc", set()),
    "VOC labels": (voc_folders("labels"), "voc", set()),
    "VOC below each other": (voc_folders("images/xml"), "voc", set()),
    "VOC nested": (voc_nested, "voc", {"train", "test"}),
    "COCO": (coco_own, "coco", {"train", "val", "train2017", "val2017"}),
    "COCO Roboflow": (coco_roboflow, "coco", {"train", "val", "test"}),
    "COCO single file": (coco_single, "coco", set()),
    "YOLO list": (yolo_list_of_names, "yolo", {"train", "val"}),
    "YOLO dict": (yolo_dict_of_names, "yolo", {"train", "val"}),
    "YOLO text": (yolo_lists_of_images, "yolo", {"train", "val"}),
    "YOLO Roboflow": (yolo_roboflow, "yolo", {"train", "val"}),
    "YOLO beside": (yolo_beside, "yolo", set()),
    "YOLO polygons": (yolo_polygons, "yolo", {"train", "val"}),
    "CSV": (csv_tensorflow, "csv", {"train", "test"}),
    "CSV Open Images": (csv_open_images, "csv", {"val"}),
    "LabelMe": (labelme, "labelme", set()),
    "LabelMe embedded": (labelme_embedded, "labelme", set()),
    "CVAT": (cvat, "cvat", {"train", "val"}),
    "Label Studio": (label_studio, "label_studio", set()),
    "Label Studio minimal": (label_studio_min, "label_studio", set()),
    "list of boxes": (box_list, "box_list", {"train", "test"}),
    "Hugging Face": (hugging_face, "hugging_face", {"train", "val"}),
    "folders": (folders_of_datasets, "auto", {"train", "val", "train2017", "val2017"}),
}
