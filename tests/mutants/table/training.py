"""The training step: every statement deleted once, and what else can go wrong in it and around it."""

from mutants.deletions import deletions
from mutants.mutant import changes

_TRAJECTORY = "tests/unit/esvit/test_trajectory.py"
_STEP = ("tests/unit/esvit/test_step.py", _TRAJECTORY, "tests/unit/esvit/test_two_ranks.py")
_OPTIM = ("tests/unit/esvit/test_optim.py", _TRAJECTORY)
_SCHEDULES = ("tests/unit/esvit/test_schedules.py", _TRAJECTORY)
_CENTERS = ("tests/unit/esvit/losses/test_losses.py", _TRAJECTORY, "tests/unit/esvit/test_two_ranks.py")
_TRAINING = ("tests/unit/esvit/test_training.py", _TRAJECTORY)
_GUARDS = ("tests/unit/esvit/test_guards.py", "tests/unit/esvit/test_step.py")

_SYNC = "speed only: then every part of a batch exchanges its gradients, of which the sum is the same"

DELETIONS = [
    *deletions(
        "esvit/step.py",
        _STEP,
        {
            "train_step: only the header of with _gradients_averaged(student, number == len(parts)):": _SYNC,
            "_gradients_averaged: only the header of if now or not isinstance(student, DistributedDataParallel):": _SYNC,
            "_losses: only the header of with torch.no_grad():": "equivalent: nothing in the teacher asks for a gradient",
            "_update: del state.optimizer.grad_scale, state.optimizer.found_inf  # type: ignore[attr-defined]": (
                "equivalent: both are set again before the next step, and nothing else reads them"
            ),
        },
    ),
    *deletions("esvit/optim.py", _OPTIM, {}),
    *deletions("esvit/schedules.py", _SCHEDULES, {}),
    *deletions("esvit/losses/center.py", _CENTERS, {}),
    *deletions("esvit/models/student_teacher.py", (_TRAJECTORY,), {}, ("StudentTeacher.update_teacher",)),
]

CHANGES = [
    *changes(
        "esvit/step.py",
        _STEP,
        [
            ("settings.optim.clip_norm, settings.optim.clip)", 'settings.optim.clip_norm, "global")'),
            ("if epoch < settings.optim.freeze_last_layer_epochs:", "if epoch <= settings.optim.freeze_last_layer_epochs:"),
            ('means["loss"] + 0 * norm)', 'means["loss"])'),
            ('found["loss"] / len(parts)', 'found["loss"]'),
            ("state.scaler.scale(", "("),
            ("number == len(parts)", "number == 1"),
            ("weights = [blend.weight, 1 - blend.weight]", "weights = [1 - blend.weight, blend.weight]"),
            ("networks.teacher(batch[:1])", "networks.teacher(batch)"),
            ("networks.teacher(batch[:1])", "networks.student(batch[:1])"),
            ("batches = [views, mirror(views[:1])]", "batches = [views, views[:1]]"),
            ("None, guard.failed.float()", "None, 0 * guard.failed.float()"),
            ("centers.settle(unless=guard.failed)", "centers.settle(unless=~guard.failed)"),
            ("unless=guard.failed)\n    return", "unless=0 * guard.failed > 0)\n    return"),
            ("torch.stack(reached).mean(dim=0)", "reached[0]"),
            ("torch.stack(reached).mean(dim=0)", "torch.stack(reached).sum(dim=0)"),
            ("if global_batch % (world_size * self.accumulation):", "if global_batch % self.accumulation:"),
        ],
    ),
    *changes(
        "esvit/optim.py",
        _OPTIM,
        [
            ("for name, p in trainable if p.ndim > 1", "for name, p in trainable if p.ndim > 2"),
            ("if p.requires_grad]", "]"),
            ("betas = (config.beta1, config.beta2)", "betas = (config.beta2, config.beta1)"),
            ("eps=config.eps", "eps=1e-8"),
            ('    decayed["weight_decay"] = weight_decay', '    decayed["weight_decay"] = exempt["weight_decay"] = weight_decay'),
            ('decayed["lr"] = exempt["lr"] = lr', 'decayed["lr"] = lr'),
            ('clip: Literal["per_tensor", "global"] = "per_tensor"', 'clip: Literal["per_tensor", "global"] = "global"'),
            ("freeze_last_layer_epochs: NonNegativeInt = 1", "freeze_last_layer_epochs: NonNegativeInt = 0"),
            ("clip_norm: float = Field(default=3.0", "clip_norm: float = Field(default=1.0"),
            ("beta2: float = Field(default=0.999", "beta2: float = Field(default=0.99"),
            ("beta1: float = Field(default=0.9", "beta1: float = Field(default=0.95"),
            ("eps: float = Field(default=1e-8", "eps: float = Field(default=1e-6"),
            (".clamp(max=1)", ""),
            (".clamp(max=1)", ".clamp(min=1)"),
            ('norms if clip == "per_tensor" else', 'norms if clip == "global" else'),
            ('if ".last_layer." in name:', 'if ".last_layer.weight_v" in name:'),
            ('state["exp_avg"].shape)', "ours)"),
            ("if name in saved}", "if name in saved and index}"),
        ],
    ),
    *changes(
        "esvit/schedules.py",
        _SCHEDULES,
        [
            ("cosine(config.teacher_momentum, 1.0,", "cosine(1.0, config.teacher_momentum,"),
            ("cosine(config.weight_decay, config.final_weight_decay,", "cosine(config.final_weight_decay, config.weight_decay,"),
            ("                step // self.steps_per_epoch,", "                step,"),
            ("self.config.base_lr * self.global_batch / 256", "self.config.base_lr * self.global_batch / 512"),
            ("self.num_steps - warmup, step - warmup)", "self.num_steps, step)"),
            ("max(num_steps - 1, 1)", "num_steps"),
            ("math.cos(math.pi * step / num_steps)", "math.cos(2 * math.pi * step / num_steps)"),
            ("step - self.config.region_start_epoch * self.steps_per_epoch", "step - self.config.region_start_epoch"),
            ("if since_start < 0:", "if since_start <= 0:"),
            ('"warmup_teacher_temperature_epochs", "region_start_epoch")', '"warmup_teacher_temperature_epochs")'),
            ("if getattr(self, key) > self.epochs:", "if getattr(self, key) >= self.epochs:"),
            ("min_lr: float = Field(default=1e-6", "min_lr: float = Field(default=0"),
            ("final_weight_decay: float = Field(default=0.4", "final_weight_decay: float = Field(default=0.04"),
            ("teacher_momentum: float = Field(default=0.996", "teacher_momentum: float = Field(default=0.99"),
            ("warmup_epochs: int = Field(default=10", "warmup_epochs: int = Field(default=5"),
            ("warmup_teacher_temperature_epochs: int = Field(default=30", "warmup_teacher_temperature_epochs: int = Field(default=10"),
        ],
    ),
    *changes(
        "esvit/losses/center.py",
        _CENTERS,
        [
            ("self.center.lerp_(mean, 1 - self.momentum)", "self.center.lerp_(mean, self.momentum)"),
            ("total_and_count[:-1] / total_and_count[-1]", "total_and_count[:-1] / num_rows"),
            ("(teacher_logits.float() - self.center)", "(teacher_logits.float() + self.center)"),
            ("- self.center) / temperature", "/ temperature - self.center)"),
            ("dtype=torch.float32)", "dtype=logits.dtype)", "half precision only: the logits are fp32 wherever the direct form meets them"),
        ],
    ),
    *changes(
        "esvit/models/student_teacher.py",
        (_TRAJECTORY, "tests/unit/esvit/models/test_student_teacher.py", "tests/unit/esvit/test_step.py"),
        [
            ("weight: Any = 1 - momentum if unless is None", "weight: Any = momentum if unless is None"),
            ("torch.where(unless, 0.0, 1 - momentum)", "torch.where(unless, 0.0, momentum)"),
            ("torch.where(unless, 0.0, 1 - momentum)", "1 - momentum"),
            ("self.teacher.load_state_dict(self.student.state_dict())", "pass"),
            ("        self.teacher.requires_grad_(False)\n", ""),
            ("self.teacher = Network(config, drop_path=False,", "self.teacher = Network(config, drop_path=True,"),
            ("self.student = Network(config, drop_path=True,", "self.student = Network(config, drop_path=False,"),
        ],
    ),
    *changes(
        "esvit/training.py",
        _TRAINING,
        [
            ("epoch = state.step // schedules.steps_per_epoch", "epoch = batch.epoch"),
            ("epoch = state.step // schedules.steps_per_epoch", "epoch = (state.step - 1) // schedules.steps_per_epoch"),
            ("schedules.at(state.step), config.mixup", "schedules.at(max(state.step - 1, 0)), config.mixup"),
            ("config.mixup.blend(config.seed, state.step)", "None"),
            ("        checkpoints.wait()\n    return 0", "    return 0"),
            ("                checkpoints.wait()\n                log.say", "                log.say"),
            ("torch.manual_seed(_step_seed(config.seed, state.step, here.rank))", "torch.manual_seed(0)"),
            ("    return (seed * 1_000_003 + step) * 65_537 + rank", "    return seed * 1_000_003 + step"),
            ("    torch.manual_seed(config.seed)\n", "    torch.manual_seed(0)\n"),
            ("return config.schedule.epoch_steps or loader.steps_per_epoch", "return loader.steps_per_epoch"),
            ('saved["step"] = saved["loader"]["position"] = step', "pass"),
        ],
    ),
    *changes(
        "esvit/mixup.py",
        ("tests/unit/esvit/test_mixup.py", _TRAJECTORY),
        [
            ("group.lerp(mirrored, 1 - self.weight)", "group.lerp(mirrored, self.weight)"),
            ("key=[seed, (step << 16) + _STREAM]", "key=[seed, _STREAM]"),
            ("key=[seed, (step << 16) + _STREAM]", "key=[0, (step << 16) + _STREAM]"),
            ("if generator.random() >= self.probability:", "if generator.random() >= 0.9:"),
            ("generator.random() < self.switch_probability", "True"),
            ("float(1 - height * width)", "float(height * width)"),
            ("np.sqrt(1 - generator.beta(", "np.sqrt(generator.beta("),
            ("blended = group.clone()", "blended = group"),
            ("[group.flip(1) for group in views]", "[group.flip(0) for group in views]"),
        ],
    ),
    *changes(
        "esvit/guards.py",
        _GUARDS,
        [
            ("torch.where(value.isfinite(), _NEVER, step)", "torch.where(value.isnan(), step, _NEVER)"),
            ("torch.minimum(self._first, seen)", "seen"),
            ("return None if first == _NEVER else first", "return first"),
            ("self._first < _NEVER", "self._first == _NEVER"),
            ("self._handle.remove()", "pass"),
            ("F.normalize(pooled.detach().float(), dim=-1)", "pooled.detach().float()"),
            ("rows.var(dim=0, correction=0).sum()", "rows.var(dim=0, correction=0).mean()"),
            ("self._streaks.get(sign, 0) + 1 for", "1 for"),
            ("if count >= config.patience", "if count > config.patience"),
            ("before, self._center = self._center, center.clone()", "before = self._center"),
            (".mean().sqrt() / teacher_temperature", ".mean().sqrt()"),
            ('if lasting and config.on_collapse == "stop":', "if False:"),
            ("abs(view - self._log_k) < _UNIFORM_MARGIN", "abs(view) < _UNIFORM_MARGIN"),
            ("math.sqrt(global_batch / 1024)", "(global_batch / 1024)"),
            ("if num_prototypes > num_samples:", "if num_prototypes >= 2 * num_samples:"),
        ],
    ),
    *changes(
        "esvit/state.py",
        ("tests/unit/esvit/checkpoints/test_files.py",),
        [
            ('            self.scaler.load_state_dict(saved["scaler"])\n', "            pass\n"),
            ('        self.step = saved["step"]\n', ""),
            ('self.loader.load_state_dict(saved["loader"])', "pass"),
            ('load_optimizer_state_by_name(self.optimizer, saved["optimizer"])', "pass"),
            ("self._load_networks(saved, strict=True)", "self._load_networks(saved, strict=False)"),
            ('"teacher": self.networks.teacher, "loss": self.loss}', '"teacher": self.networks.teacher}'),
            ("            if unexpected:\n", "            if False:\n"),
            ('key.partition(".")[0] not in _FREE', "key not in _FREE"),
        ],
    ),
]

MUTANTS = [*DELETIONS, *CHANGES]
