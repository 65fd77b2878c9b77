"""How good the starter is, beside guesses, with words that are not the clip's, and for somebody who is not there.

python experiments/stvgformer_scenes.py [FILE.safetensors]

Prints a Markdown table over the 300 test scenes, and the scores that true and false sentences get.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from zoo.data.zooclips_ground import SPLITS, absent_sentence, film_scene, plan_scene
from zoo.metrics import FrameTube, GroundingScores, grounding_scores
from zoo.models.stvgformer_blocks import valid_spans
from zoo.models.stvgformer_encoders import read_words
from zoo.tasks.ground import ground_pipeline
from zoo.tasks.ground_score import by_kind, score_scenes

TEST = SPLITS["test"]
TOP = 3  # the word of a sentence that names it


def truths(clips):
    return [FrameTube(c.scene.span.start, c.scene.span.end, c.boxes[0].astype(float), 0) for c in clips]


def guesses(clips):
    """What guessing gives: name to one tube a clip. The first sees nothing of the film, the others the true boxes."""
    rng = np.random.default_rng(0)
    mean = np.mean([film_scene(plan_scene(seed)).boxes[0] for seed in SPLITS["val"]], (0, 1)).astype(float)
    rows = {
        "mean box, whole clip (no oracle)": [],
        "true boxes of a random person, one of its spans": [],
        "true boxes of a person in the right colour, one of its spans": [],
        "true boxes of the right person, whole clip": [],
    }
    for clip in clips:
        scene, length = clip.scene, clip.scene.frames
        same = [i for i, person in enumerate(scene.people) if person.top == scene.people[0].top]
        somebody, alike = int(rng.integers(3)), int(rng.choice(same))
        rows_of_clip = [FrameTube(0, length, np.tile(mean, (length, 1)))]
        for who in (somebody, alike):
            part = scene.parts[who][rng.integers(2)]
            rows_of_clip.append(FrameTube(part.start, part.end, clip.boxes[who].astype(float), 0))
        rows_of_clip.append(FrameTube(0, length, clip.boxes[0].astype(float), 0))
        for row, tube in zip(rows.values(), rows_of_clip, strict=True):
            row.append(tube)
    return rows


@torch.inference_mode()
def best_scores(model, clips, sentences):
    """The highest score over all spans, in [0, 1], for each clip."""
    found = []
    for clip, sentence in zip(clips, sentences, strict=True):
        frames = torch.from_numpy(clip.frames).movedim(-1, 1).float()[None] / 255
        chances = model(frames, read_words([sentence], model.vocabulary)).chances()[0]
        found.append(float(chances[valid_spans(len(chances), None, chances.device)[0]].max()))
    return np.array(found)


def line(name, scores: GroundingScores, kinds):
    figures = by_kind(scores, kinds)
    whole = figures["all"]
    cells = [f"{whole[key]:.1f}" for key in ("m_vIoU", "vIoU@0.3", "vIoU@0.5", "m_tIoU", "m_sIoU")]
    cells += [
        "/".join(f"{figures[kind][key]:.1f}" for key in ("m_vIoU", "m_tIoU", "m_sIoU")) for kind in ("S", "D", "SD")
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main():
    torch.set_num_threads(1)
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    model = ground_pipeline("stvgformer_tiny", checkpoint_path=file, device="cpu").model
    clips = [film_scene(plan_scene(seed)) for seed in TEST]
    kinds = [clip.scene.kind for clip in clips]
    print("| | m_vIoU | @0.3 | @0.5 | m_tIoU | m_sIoU | S | D | SD |\n|---|---|---|---|---|---|---|---|---|")
    for name, tubes in guesses(clips).items():
        line(name, grounding_scores(tubes, truths(clips)), kinds)
    device = torch.device("cpu")
    line("the network", score_scenes(model, TEST, device)[0], kinds)
    sentences = [clip.scene.sentence for clip in clips]
    shuffled = np.random.default_rng(1).permutation(sentences).tolist()
    line(
        "the network, sentences shuffled between clips", score_scenes(model, TEST, device, sentences=shuffled)[0], kinds
    )
    for off in ("s2d", "d2s"):
        setattr(model, off, False)
        line(f"{off} switched off after training", score_scenes(model, TEST, device)[0], kinds)
        setattr(model, off, True)

    rng = np.random.default_rng(2)
    present = best_scores(model, clips, sentences)
    false = [absent_sentence(clip.scene, rng) for clip in clips]
    absent = best_scores(model, clips, false)
    worn = [{person.top for person in clip.scene.people} for clip in clips]
    no_top = np.array([sentence.split()[TOP] not in tops for sentence, tops in zip(false, worn, strict=True)])
    print("\n| --min-score | true sentences | nobody wears that | nobody in that does it | all false ones |")
    print("|---|---|---|---|---|")
    for limit in (0.1, 0.2, 0.3, 0.4, 0.5):
        shares = [(scores >= limit).mean() for scores in (present, absent[no_top], absent[~no_top], absent)]
        print(f"| {limit} | {' | '.join(f'{share:.0%}' for share in shares)} |")


if __name__ == "__main__":
    main()
