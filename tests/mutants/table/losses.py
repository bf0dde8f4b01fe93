"""Both losses: direct, and fused with the prototypes."""

from mutants.mutant import changes

_LOSSES = ("tests/unit/esvit/losses",)

MUTANTS = [
    *changes(
        "esvit/losses/__init__.py",
        (*_LOSSES, "tests/unit/esvit/test_trajectory.py"),
        [
            ("Center(num_prototypes, config.center_momentum) if config.region_weight else None", "self.view_center"),
            ("fused.teacher_probs / num_rows", "fused.teacher_probs"),
            ("center.update_by_sum(fused.teacher_logits, num_rows)", "pass"),
            ("        center.update(teacher_logits)\n", ""),
            ("/ math.log(len(mean_probs))", ""),
            ("return -torch.xlogy", "return torch.xlogy"),
            ("Teacher(task.teacher_rows, task.teacher_prototypes, center.center, temperature)", "Teacher(task.teacher_rows, task.student_prototypes, center.center, temperature)"),
            ("            self.config.student_temperature,\n            self.config.tile_mib", "            0.2,\n            self.config.tile_mib"),
        ],
    ),
    *changes(
        "esvit/losses/view.py",
        _LOSSES,
        [
            ("if v != q", "if v >= 0"),
            ("logits.float() / student_temperature", "logits.float() * student_temperature"),
            (".sum(dim=-1).mean()", ".mean()"),
            ("torch.stack(pairs).mean()", "torch.stack(pairs).sum()"),
        ],
    ),
    *changes(
        "esvit/losses/region.py",
        _LOSSES,
        [
            ("if v != q:", "if v >= 0:"),
            ("similarity.argmax(dim=-1)", "similarity.argmin(dim=-1)"),
            ("@ F.normalize(candidates.float(), dim=-1).mT", "@ candidates.float().mT"),
            ("F.normalize(regions.float(), dim=-1) @", "regions.float() @", "equivalent: the length of a region changes no argmax"),
            ("with torch.autocast(regions.device.type, enabled=False):", "if True:"),
            (
                "@torch.no_grad()",
                "",
                "equivalent: an argmax has no gradient",
            ),
            ("best_match(regions, candidates)", "best_match(candidates, regions)"),
            ("torch.stack(pairs).mean()", "torch.stack(pairs).sum()"),
        ],
    ),
    *changes(
        "esvit/losses/pairs.py",
        _LOSSES,
        [
            ("(v != q) / (num_pairs", "1 / (num_pairs"),
            ("(num_pairs * batch * tokens)", "(num_pairs * batch)"),
            ("num_teachers * (len(num_tokens) - 1)", "num_teachers * len(num_tokens)"),
            ("best_match(regions, candidates) + first", "best_match(regions, candidates)"),
            ("first += candidates.shape[1]", "first = candidates.shape[1]", "equivalent for two teacher views, of which the first begins at 0; the loss has no third"),
            ("    with torch.inference_mode(False):", "    if True:"),
        ],
    ),
    *changes(
        "esvit/losses/fused.py",
        _LOSSES,
        [
            ("torch.bfloat16 if half else torch.float32", "torch.float32"),
            ("@ teacher.rows.float().sum(dim=(0, 1))) * scale", "@ teacher.rows.float().sum(dim=(0, 1)))"),
            ("/ task.student_temperature).squeeze(1)", ").squeeze(1)"),
            ("        ctx.gradients = None\n", ""),
            ("gradient.mul_(d_loss) if needs else None", "gradient if needs else None"),
            ("probs_sum += targets.sum(dim=0)", "probs_sum = targets.sum(dim=0)"),
            ("loss -= _gain_and_descent", "loss += _gain_and_descent"),
            ("bag = match[part][block], weights[part][block]", "bag = match[part][block], weights[block]"),
            ("[part] = -(tile.mul_(scale)", "[part] = (tile.mul_(scale)"),
            ("weights.sum(dim=1, keepdim=True), value=-1", "torch.ones_like(weights[:, :1]), value=-1"),
            ("shift, scale = task.teacher.center / -temperature", "shift, scale = task.teacher.center / temperature"),
            ("scale / temperature\n    for", "scale\n    for"),
            ("return (match + first[:, None, None])", "return (match + 0 * first[:, None, None])"),
            ("scale * d_g / norms, value=-1)", "scale * d_g / norms, value=0)"),
            ("    d_weight.div_(temperature)\n", ""),
            ("lengths.clamp_min(1e-12)", "lengths"),
            ("        total -= a @ b", "        total += a @ b"),
            ("        total.addmm_(a, b, alpha=-1)", "        total.copy_(-(a @ b))"),
            ("slice(length * i // count, length * (i + 1) // count)", "slice(length * i // count, length * (i + 1) // count - 1)"),
            ("        ctx.mark_non_differentiable(probs_sum)\n", ""),
            ("if tile.is_cuda else max(1, _CACHE_BYTES // row_bytes))", ")", "speed only: how many rows one operation takes"),
            (
                "            del tile  # before the next asks for as much\n",
                "",
                "memory only, by one tile; the test of memory allows that much",
            ),
        ],
    ),
]
