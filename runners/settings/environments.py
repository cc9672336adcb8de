"""Settings of the environments, one class for each suite."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runners.settings.base import Settings

AtariGame = Literal[
    "alien",
    "amidar",
    "assault",
    "asterix",
    "bank_heist",
    "battle_zone",
    "boxing",
    "breakout",
    "chopper_command",
    "crazy_climber",
    "demon_attack",
    "freeway",
    "frostbite",
    "gopher",
    "hero",
    "jamesbond",
    "kangaroo",
    "krull",
    "kung_fu_master",
    "ms_pacman",
    "pong",
    "private_eye",
    "qbert",
    "road_runner",
    "seaquest",
    "up_n_down",
]


class EnvSettings(Settings):
    """What all suites have."""

    suite: str = Field(description="which environments")
    num_envs: int = Field(16, ge=1, le=1024, description="parallel environments for training")
    workers: int = Field(
        -1, ge=-1, le=256, description="processes for them; 0 none, -1 as many as pay"
    )


class CrafterSettings(EnvSettings):
    """Crafter: an open world with 22 achievements, 17 actions, 64x64 pixels."""

    suite: Literal["crafter"] = Field("crafter", description="which environments")
    length: int = Field(10_000, ge=1, description="steps after which an episode is cut")


class AtariSettings(EnvSettings):
    """One of the 26 games of Atari 100k, RGB 64x64, minimal action set."""

    suite: Literal["atari"] = Field("atari", description="which environments")
    num_envs: int = Field(1, ge=1, le=1024, description="parallel environments for training")
    game: AtariGame = Field("breakout", description="the game")
    frame_skip: int = Field(4, ge=2, le=16, description="frames one step lasts; 4 in every paper")
    noop_max: int = Field(30, ge=0, le=200, description="most no-ops at a start, in training")
    eval_noop_max: int = Field(30, ge=0, le=200, description="most no-ops at a start, evaluating")
    sticky: float = Field(0.0, ge=0, lt=1, description="probability that an action is repeated")
    resize: Literal["area", "bilinear"] = Field("bilinear", description="how frames get to 64x64")
    life_loss: bool = Field(True, description="whether a lost life ends an episode in training")
    max_frames: int = Field(108_000, ge=1, description="frames after which a game is cut")


class DMCSettings(EnvSettings):
    """One task of the DeepMind Control Suite, from pixels, from the state, or both."""

    suite: Literal["dmc"] = Field("dmc", description="which environments")
    task: str = Field("walker-walk", description="the task, see `list tasks`")
    observe: Literal["pixels", "state", "both"] = Field("pixels", description="what is seen")
    action_repeat: int = Field(2, ge=1, le=16, description="control steps one step lasts")
    size: int = Field(64, ge=16, le=256, description="width and height of the pictures")
    quality: Literal["full", "fast"] = Field(
        "full", description="how pictures are drawn; fast has no shadows and is not comparable"
    )


class GymSettings(EnvSettings):
    """Any Gymnasium environment."""

    suite: Literal["gym"] = Field("gym", description="which environments")
    id: str = Field("CartPole-v1", description="its id, package.module:id, or package.module:Class")


SUITES: dict[str, type[EnvSettings]] = {
    "crafter": CrafterSettings,
    "atari": AtariSettings,
    "dmc": DMCSettings,
    "gym": GymSettings,
}
