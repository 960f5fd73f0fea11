"""Print a config's model: `python -m ssd_jax.model --config=configs/ssd300_voc.py [--classes=20]`."""

from absl import app, flags
from ml_collections import config_flags

from ssd_jax.command import command, parse_flags
from ssd_jax.model.ssd import from_description
from ssd_jax.model.summary import summarize, table

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, or one of your own.")
CLASSES = flags.DEFINE_integer("classes", None, "How many classes of objects; the config's class_names unless given.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Print the layers of the config's model."""
    config = CONFIG.value
    classes = CLASSES.value if CLASSES.value is not None else len(config.data.class_names)
    if not classes:
        raise app.UsageError("the config takes its classes from the data: say how many with --classes")
    with command():
        model = from_description(config.model.to_dict() | {"num_classes": 1 + classes, "spec": config.spec.to_dict()})
        print(table(summarize(model)))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
