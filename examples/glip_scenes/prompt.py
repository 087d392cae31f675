"""Takes the tuned prompt out of a run, gives it to the model that the run began with, and measures that with and
without it. Fails if the run changed any other weight.

    wordregion train glip_scenes --out runs/glip_scenes
    wordregion train glip_scenes_adapt --start runs/glip_scenes --out runs/glip_scenes_prompt
    python examples/glip_scenes/prompt.py runs/glip_scenes runs/glip_scenes_prompt renamed.safetensors
"""

import argparse
import sys
from pathlib import Path

from wordregion.fingerprint import fingerprint
from wordregion.models.adapt import load_prompt, save_prompt
from wordregion.models.grounder import Grounder
from wordregion.models.store import load_model
from wordregion.recipes.glip_scenes import glip_scenes_adapt


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path, help="run of glip_scenes")
    parser.add_argument("tuned", type=Path, help="run of glip_scenes_adapt --mode prompt")
    parser.add_argument("prompt", type=Path, help="file to write")
    parser.add_argument("--names", default="renamed", help="classes that the prompt was tuned for (default: renamed)")
    flags = parser.parse_args()

    model, tuned = load_model(flags.start, Grounder), load_model(flags.tuned, Grounder)
    save_prompt(tuned, flags.prompt)
    before, after = fingerprint(model), fingerprint(load_prompt(tuned, None))
    print(f"all weights but the prompt: {before} before tuning, {after} after it")
    print(f"written: {flags.prompt} ({flags.prompt.stat().st_size:,} bytes)")

    recipe = glip_scenes_adapt(flags.start, names=flags.names)
    assert recipe.data.evaluate is not None
    given = recipe.data.evaluate(), recipe.data.collator(), recipe.data.eval_transform
    for said, prompt in (("with the prompt", flags.prompt), ("without it", None)):
        found = recipe.evaluation(load_prompt(model, prompt), *given, batch=32)
        print(f"{said}: " + ", ".join(f"{name} {value:.1f}" for name, value in found.metrics.items()))
    return 0 if fingerprint(model) == before == after else 1


if __name__ == "__main__":
    sys.exit(main())
