"""ABG (Luo et al., ACM MM 2020): bipartite graphs join the frames, then the videos, of both domains.

`own` is as the authors' scripts run it: a graph of videos on top, no domain loss of frames (`--frame-loss`
adds the paper's), relations as pooling and for hmdb -> ucf a mean. They train hmdb -> ucf with a rate of 0.04
and ucf -> hmdb with 0.03: give --learning-rate 0.04 there.

A prediction needs companions. The authors pair each batch of evaluation videos with a random batch of the
source, so that it depends on chance and on the other videos. Here a batch of source videos, and one of target
videos less one, are chosen from the training videos by the seed and kept with the model; every video joins
that batch alone. It changes no companion: in the graph of videos these are what the graph of frames makes of
them without it. What the authors pad with zeros does not occur.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.bank import Bank, sample
from adapt.config import ADVERSARY, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch, TrainingData, batch_sizes
from adapt.discriminators import domain_cross_entropy, domains_of, reverse
from adapt.domain_norm import DomainBatchNorm
from adapt.dropout import Dropout
from adapt.graph import DROPOUT, OUTPUT_WIDTH, Graph
from adapt.initialise import initialise
from adapt.losses import exact, target_entropy
from adapt.methods import Networks, Progress, StepLosses
from adapt.methods.ta3n import frame_tuples
from adapt.schedule import generator, reversal_coefficient
from adapt.settings import ROBUST, TA3N_FAMILY
from store.errors import ConfigError
from store.options import option

ONE_PROCESS = "its graph joins all frames of the batch"
FEWEST = 2
LEAST_VIDEOS = (
    FEWEST  # a prediction completes a batch of kept target videos, of which there must be one
)


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """Which graphs and losses there are, and their weights."""

    pooling: str = field(
        default="relations",
        metadata=option(
            "How frames become a video: relations of 2 to all frames (TRN-M) or their mean.",
            choices=("relations", "mean"),
        ),
    )
    video_graph: bool = field(
        default=True, metadata=option("Whether a second graph joins the videos.")
    )
    frame_loss: bool = field(
        default=False,
        metadata=option(
            "Whether frames have a domain loss too, as in the paper; the scripts have none."
        ),
    )
    frame_reversal: float = field(
        default=0.5,
        metadata=option("Factor of the reversal coefficient at the frames' discriminator."),
    )
    video_reversal: float = field(
        default=0.75,
        metadata=option("Factor of the reversal coefficient at the videos' discriminator."),
    )
    domain_weight: float = field(default=4.0, metadata=option("Weight of the domain losses."))
    entropy_weight: float = field(
        default=0.01, metadata=option("Weight of the target's entropy, gamma in the paper.")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < FEWEST:
            raise ConfigError(
                f"--method abg joins a video with others of its domain: --batch-size must be {FEWEST} or "
                f"more, got {self.batch_size}."
            )
        if self.pooling == "relations" and self.frames < FEWEST:
            raise ConfigError(
                f"--pooling relations needs {FEWEST} frames or more, got --frames {self.frames}. Use "
                "--pooling mean."
            )


READS = names_of(TRAINING, ADVERSARY) | {"frames"}
SETTINGS = {
    "own": {
        **{name: value for name, value in TA3N_FAMILY.items() if name in READS},
        "epochs": 40,
        "target_batch": "equal",
        "train_sampling": "jittered",
    },
    "shared": {**{k: v for k, v in ROBUST.items() if k in READS}, "frames": 5},
}
PAIRS = {("hmdb", "ucf"): {"entropy_weight": 0.1, "pooling": "mean"}}


class Relations(nn.Module):
    """TRN-M without attention: for every n >= 2 an MLP over ordered n-tuples of frames, all summed."""

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        sizes = range(frames, 1, -1)
        self.tuples = [frame_tuples(frames, size) for size in sizes]
        self.networks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(size * width, width), nn.ReLU()) for size in sizes
        )

    def forward(self, frames_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, C)."""
        found = [
            network(
                torch.stack([frames_BTC[:, chosen].flatten(1) for chosen in map(list, tuples)])
            ).sum(0)
            for tuples, network in zip(self.tuples, self.networks)
        ]
        return torch.stack(found).sum(dim=0)


class ABG(nn.Module):
    """Both graphs and the classifier, and the companions of a prediction."""

    def __init__(self, config: Options, backbone_width: int, classes: int) -> None:
        super().__init__()
        T, C, B = config.frames, OUTPUT_WIDTH, config.batch_size
        self.norm = DomainBatchNorm(backbone_width)
        self.frame_graph = Graph(backbone_width)
        self.relations = Relations(T, C) if config.pooling == "relations" else None
        self.dropout = Dropout(DROPOUT)
        self.video_graph = Graph(C) if config.video_graph else None
        self.classifier = nn.Linear(C, classes)
        for name, shape in (
            ("companion_frames", (B * T, backbone_width)),
            ("frame_sums", (B * T,)),
            ("companion_videos", (B, C)),
            ("video_sums", (B,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.companion_frames: Tensor
        self.frame_sums: Tensor
        self.companion_videos: Tensor
        self.video_sums: Tensor

    def nodes(self, features_BTD: Tensor, *, source: bool) -> Tensor:
        """Frames normalised by their domain, (B T, D)."""
        return self.norm(features_BTD.flatten(0, 1), source=source)

    def pool(self, frames_BTC: Tensor) -> Tensor:
        """Frames (B, T, C) -> videos (B, C), dropped out in training."""
        pooled = frames_BTC.mean(dim=1) if self.relations is None else self.relations(frames_BTC)
        video_BC: Tensor = self.dropout(pooled)
        return video_BC

    def classify(self, video_BC: Tensor) -> Tensor:
        """Videos (B, C) -> logits (B, N)."""
        return exact(self.classifier(video_BC))

    def join(self, source_BTD: Tensor, target_BTD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Frames (B, T, C) and videos (B, C) of both domains, each behind its graph."""
        T = source_BTD.shape[1]
        nodes = self.nodes(source_BTD, source=True), self.nodes(target_BTD, source=False)
        frames = [z.unflatten(0, (-1, T)) for z in self.frame_graph(*nodes)]
        videos = [self.pool(z) for z in frames]
        if self.video_graph is not None:
            videos = list(self.video_graph(*videos))
        return frames, videos

    @torch.no_grad()
    def keep_companions(self, source_BTD: Tensor, target_BTD: Tensor) -> None:
        """Keep what a further target video needs to be predicted in this batch."""
        T = source_BTD.shape[1]
        nodes = self.nodes(source_BTD, source=True), self.nodes(target_BTD, source=False)
        videos = [self.pool(z.unflatten(0, (-1, T))) for z in self.frame_graph(*nodes)]
        self.companion_frames.copy_(nodes[0])
        self.frame_sums.copy_(self.frame_graph.row_sums(*nodes))
        self.companion_videos.copy_(videos[0])
        if self.video_graph is not None:
            self.video_sums.copy_(self.video_graph.row_sums(*videos))

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) of the target -> logits (B, N), each video on its own."""
        nodes_BTD = self.nodes(features_BTD, source=False).view_as(features_BTD)
        joined = [
            self.frame_graph.join(self.companion_frames, self.frame_sums, part)
            for part in nodes_BTD.split(16)
        ]
        video_BC = self.pool(torch.cat(joined))
        if self.video_graph is not None:
            video_BC = self.video_graph.join(
                self.companion_videos, self.video_sums, video_BC[:, None]
            )[:, 0]
        return self.classify(video_BC)


class Branch(nn.Module):
    """Discriminators that are told the class, and how much each class weighs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        C = OUTPUT_WIDTH
        self.embedding = nn.Linear(classes, C)
        self.frame, self.video = (
            nn.Sequential(nn.Linear(C, C), nn.LeakyReLU(0.01), nn.Linear(C, 2)) for _ in range(2)
        )
        self.register_buffer("class_weights", torch.ones(classes))
        self.class_weights: Tensor


def build(config: Options, width: int, classes: int) -> Networks:
    """Graphs as torch starts them; classifier, discriminators and embedding from N(0, 0.001)."""
    networks = Networks(ABG(config, width, classes), Branch(classes))
    for part in (networks.model.classifier, networks.branch):
        initialise(part, "small-normal")
    if not config.frame_loss:
        networks.branch.frame = None
    return networks


def prepare(networks: Networks, data: TrainingData, config: Options) -> None:
    """A class weighs 1 / its number of source videos; 0 if it has none."""
    counts_N = torch.bincount(data.labels_V, minlength=len(data.classes)).double()
    weights_N = torch.where(counts_N > 0, 1 / counts_N.clamp_min(1), 0.0)
    networks.branch.class_weights.copy_(weights_N)


def remember(networks: Networks, data: TrainingData, config: Options) -> None:
    """Choose the companions of every prediction by the seed."""
    model = networks.model.eval()
    chosen = generator(config.seed, "companions")
    sizes = batch_sizes(config, data)

    def frames_of(bank: Bank, count: int) -> Tensor:
        order_V = torch.randperm(len(bank), generator=chosen)
        videos_B = order_V[
            torch.arange(count) % len(bank)
        ]  # again from the first, if there are fewer
        return bank.gather(videos_B, sample(bank, videos_B, config.frames, None))

    # Of a batch that has several draws of a single video, that video.
    others = max(1, sizes[1] - 1)
    model.keep_companions(frames_of(data.source, sizes[0]), frames_of(data.target, others))


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + 4 (L_video [+ L_frame]) + gamma H(p of the target), behind gradient reversal.

    L_s is the cross entropy weighted by 1 / class frequency, a weighted mean. A discriminator sees
    v + Emb(c), c the source's label as a one-hot row or the target's prediction, which gets gradients.
    """
    model, branch = networks.model, networks.branch
    coefficient = reversal_coefficient(config, progress.share)
    frames, videos = model.join(source.features_BTD, target.features_BTD)
    source_BN, target_BN = (model.classify(video_BC) for video_BC in videos)
    known_BN = F.one_hot(source.labels_B, source_BN.shape[1]).to(target_BN.dtype)
    told_BC = branch.embedding(torch.cat([known_BN, target_BN.softmax(dim=1)]))
    domains_B = domains_of(source, target)
    weights_N = branch.class_weights.to(source_BN.dtype)

    def domain_loss(discriminator: nn.Module, features: Tensor, factor: float) -> Tensor:
        return domain_cross_entropy(
            discriminator(reverse(features, factor * coefficient)), domains_B
        )

    parts = {
        "source": F.cross_entropy(source_BN, source.labels_B, weights_N),
        "video": domain_loss(branch.video, torch.cat(videos) + told_BC, config.video_reversal),
    }
    domain = parts["video"]
    if config.frame_loss:
        told = torch.cat(frames) + told_BC[:, None]
        parts["frame"] = domain_loss(branch.frame, told, config.frame_reversal)
        domain = domain + parts["frame"]
    parts["entropy"] = target_entropy(target_BN, "sum")
    total = parts["source"] + config.domain_weight * domain
    return StepLosses(total=total + config.entropy_weight * parts["entropy"], parts=parts)
