"""The `small` model: the same autoencoder of transitions, from motion to motion, with convolutions.

Shapes: B batch, T frames, P = T - 1 transitions, H W pixels, h w half of them, A latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .flow import stabilised_flows
from .model import LatentActionModel, Reconstruction

FLOW_UNIT_PX = 2.0
"""Flow is given to the network in units of so many pixels: a hand moves by about one."""
PLACE_ROWS, PLACE_COLUMNS = 6, 8
PLACE_WIDTH = 2 * PLACE_ROWS * PLACE_COLUMNS


class FlowActionModel(LatentActionModel):
    """A latent action model with `input: flow`; same methods, same 32 numbers a transition.

    Encoder and decoder see stabilised optical flow; the decoder also sees the earlier frame. A
    decoder with a frame at hand need not be told where the motion is, so the latent that leaves
    `encode` is the learned one joined with a coarse map of the flow, cut to the latent's width
    along the axes that hold most (`fit_place`).
    """

    def __init__(self, config: ModelConfig, *, encoder_only: bool = False) -> None:
        """Build with fresh weights; `encoder_only` leaves out what `encode` does not need."""
        nn.Module.__init__(self)
        self.config = config
        self.encoder_only = encoder_only
        width, latent = config.width, config.latent_dim
        rows, columns = config.frame_height // 16, config.frame_width // 16
        self.rows, self.columns = rows, columns
        self.encoder = nn.Sequential(
            nn.Conv2d(2, width // 3, 5, stride=2, padding=2),
            nn.SiLU(),
            _block(width // 3, 2 * width // 3, stride=2),
            _block(2 * width // 3, width, stride=2),
            _block(width, width),
            nn.Flatten(),
        )
        self.fc = nn.Linear(width * rows * columns, 2 * latent)
        self.place = _Place(latent)
        if encoder_only:
            return
        self.scene = nn.Sequential(
            nn.Conv2d(3, width // 3, 5, stride=2, padding=2),
            nn.SiLU(),
            _block(width // 3, width // 2, stride=2),
            _block(width // 2, 2 * width // 3, stride=2),
        )
        self.action_up = nn.Linear(latent, 2 * width // 3 * rows * columns)
        self.decoder = nn.Sequential(
            _block(4 * width // 3, width),
            nn.Upsample(scale_factor=2),
            _block(width, 2 * width // 3),
            nn.Upsample(scale_factor=2),
            _block(2 * width // 3, width // 3),
            nn.Conv2d(width // 3, 2, 3, padding=1),
        )

    def encode(self, frames_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, T-1, A) of the change into every later frame, place joined in, and log-variance.

        Frames are channel-last floats in [0, 1] of the config's size, at least two.
        """
        flows = stabilised_flows(self._fitting(frames_BTHWC))
        mu, log_var = self.encode_flow(flows)
        return self.place(mu, coarse(flows)), log_var

    def look(self, frames_FHWC: Tensor) -> Tensor:
        """The frames themselves: flow belongs to a pair, so its frames share nothing."""
        return frames_FHWC

    def relate(self, earlier: Tensor, later: Tensor) -> Tensor:
        """Mean (B, A) of the changes between B pairs of frames."""
        return self.encode(torch.stack((earlier, later), dim=1))[0][:, 0]

    def encode_flow(self, flows_BPChw: Tensor) -> tuple[Tensor, Tensor]:
        """Learned mean and log-variance (B, P, A) of stabilised flows in pixels."""
        flat = self.encoder(flows_BPChw.flatten(0, 1) / FLOW_UNIT_PX)
        mu, log_var = _split(self.fc(flat), flows_BPChw).chunk(2, dim=-1)
        return mu, log_var

    def decode_flow(self, first_BPHWC: Tensor, z_BPA: Tensor) -> Tensor:
        """Flow in pixels (B, P, 2, h/2, w/2) that learned latents make of the earlier frames."""
        if self.encoder_only:
            raise ValueError("This model was built with encoder_only=True and cannot decode.")
        images = first_BPHWC.flatten(0, 1).permute(0, 3, 1, 2)
        seen = self.scene(F.avg_pool2d(images, 2) - 0.5)
        told = self.action_up(z_BPA.flatten(0, 1)).view(len(images), -1, self.rows, self.columns)
        flow: Tensor = self.decoder(torch.cat((seen, told), dim=1)) * FLOW_UNIT_PX
        return _split(flow, first_BPHWC)

    def decode(self, first_BPHWC: Tensor, z_BPA: Tensor) -> Tensor:
        """Move the pixels of `first_BPHWC` as latents of `encode` say; frames in [0, 1].

        Every place takes its colour from where the decoded motion says it came from, the motion
        being taken at the place itself: right for a few pixels of motion, a sketch beyond.
        """
        first = self._fitting(first_BPHWC)
        flow = self.decode_flow(first, self.place.learned(z_BPA)).flatten(0, 1)
        images = first.flatten(0, 1).permute(0, 3, 1, 2)
        size = images.shape[-2:]
        flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        scale = torch.tensor([2 / size[1], 2 / size[0]], device=flow.device)
        ys, xs = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n, device=flow.device) for n in size)
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
        source = grid - flow.permute(0, 2, 3, 1) * scale
        moved = F.grid_sample(images, source, padding_mode="border", align_corners=False)
        return _split(moved.permute(0, 2, 3, 1), first_BPHWC)

    def forward(self, frames_BTHWC: Tensor, *, eps_BPA: Tensor | None = None) -> Reconstruction:
        """Encode and decode flow; `recon` and `target` are (B, P, h/2, w/2, 2) in `FLOW_UNIT_PX`.

        `mu`, `log_var` and `z` are the learned latent's; `eps_BPA` is its noise.
        """
        frames = self._fitting(frames_BTHWC)
        flows = stabilised_flows(frames)
        mu, log_var = self.encode_flow(flows)
        z = mu if eps_BPA is None else mu + eps_BPA * torch.exp(0.5 * log_var)
        recon = self.decode_flow(frames[:, :-1], z)
        target = _split(F.avg_pool2d(flows.flatten(0, 1), 2), flows)
        return Reconstruction(
            recon=recon.movedim(2, -1) / FLOW_UNIT_PX,
            target=target.movedim(2, -1) / FLOW_UNIT_PX,
            mu=mu,
            log_var=log_var,
            z=z,
        )

    def fit_place(self, mu_RA: Tensor, coarse_RG: Tensor) -> None:
        """Choose the axes that join learned latents and coarse flows of many transitions."""
        self.place.fit(mu_RA, coarse_RG, weight=self.config.place_weight)

    def freeze_and_fill(self) -> None:
        """Every weight trains; nothing is left out of the state."""

    def _fitting(self, frames_BTHWC: Tensor) -> Tensor:
        if frames_BTHWC.shape[1] < 1 or frames_BTHWC.shape[2:4] != (
            self.config.frame_height,
            self.config.frame_width,
        ):
            raise ValueError(
                f"Frames must be {self.config.frame_height}x{self.config.frame_width}, got "
                f"{tuple(frames_BTHWC.shape[2:4])}."
            )
        return frames_BTHWC


class _Place(nn.Module):
    """Joins a learned latent with a coarse flow: centre, weigh, project; before a fit, nothing."""

    mean: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        joined = latent_dim + PLACE_WIDTH
        self.latent_dim = latent_dim
        self.register_buffer("mean", torch.zeros(joined))
        self.register_buffer("scale", torch.ones(joined))
        self.register_buffer("axes", torch.eye(joined, latent_dim))

    def forward(self, mu_BPA: Tensor, coarse_BPG: Tensor) -> Tensor:
        joined = torch.cat((mu_BPA, coarse_BPG), dim=-1)
        return ((joined - self.mean) * self.scale) @ self.axes

    def learned(self, z_BPA: Tensor) -> Tensor:
        """The learned latent that a joined one stands for, as nearly as its axes hold it."""
        own = slice(0, self.latent_dim)
        return z_BPA @ self.axes[own].mT / self.scale[own] + self.mean[own]

    def fit(self, mu_RA: Tensor, coarse_RG: Tensor, *, weight: float) -> None:
        joined = torch.cat((mu_RA, coarse_RG), dim=1).double()
        mean = joined.mean(dim=0)
        centred = joined - mean
        scale = torch.ones_like(mean)
        for part, share in (
            (slice(0, self.latent_dim), 1.0),
            (slice(self.latent_dim, None), weight),
        ):
            scale[part] = share / centred[:, part].square().sum(dim=1).mean().sqrt().clamp_min(1e-9)
        scaled = centred * scale
        _, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
        axes = vectors.flip(1)[:, : self.latent_dim]
        # Signs are free; the largest entry is made positive so that the same data gives one result.
        axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.axes.copy_(axes)


def coarse(flows_BPChw: Tensor) -> Tensor:
    """Mean flow of 6x8 fields (B, P, 96), in pixels."""
    fields = F.adaptive_avg_pool2d(flows_BPChw.flatten(0, 1), (PLACE_ROWS, PLACE_COLUMNS))
    return _split(fields.flatten(1), flows_BPChw)


def _split(flat: Tensor, like_BP: Tensor) -> Tensor:
    """Give the joined first axis the two first axes of `like_BP` back."""
    return flat.reshape(*like_BP.shape[:2], *flat.shape[1:])


def _block(num_in: int, num_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1),
        nn.GroupNorm(8, num_out),
        nn.SiLU(),
    )
