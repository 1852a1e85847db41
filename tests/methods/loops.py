"""Reference implementations of losses in loops over plain numbers."""

import math
from dataclasses import dataclass
from itertools import product as every_pair


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) if any(a) and any(b) else 0.0


def softmax(values):
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    return [weight / sum(weights) for weight in weights]


def relative(codes, centers, sqrt_bk=False):
    entries = [x for row in codes for x in row]
    mean = sum(entries) / len(entries)
    norm = math.sqrt(sum((x - mean) ** 2 for x in entries))
    norm /= math.sqrt(len(entries)) if sqrt_bk else 1
    return [
        [dot([(x - mean) / norm for x in row], c) / math.sqrt(dot(c, c)) for c in centers]
        for row in codes
    ]


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def average(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def gap(x, form):
    distance = abs(x) - 1
    if form == "log_cosh":
        return math.log(math.cosh(distance))
    return {"l1": abs(distance), "l2": distance * distance, "l3": abs(distance) ** 3}[form]


def mean_gap(codes, form):
    if form == "cosine":
        return average(1 - cosine(row, [sign(x) for x in row]) for row in codes)
    return average(gap(x, form) for row in codes for x in row)


def bernoulli_divergence(codes, log_epsilon=0.0):
    total = 0.0
    for row in codes:
        for x in row:
            p = 1 / (1 + math.exp(-x))
            for q in (p, 1 - p):
                total += q * (math.log(q + log_epsilon) - math.log(0.5 + log_epsilon))
    return total / len(codes)


def sign(x):
    return 1 if x >= 0 else -1


def softmax_loss(logits, labels, multi_label="even"):
    loss = 0.0
    for row, row_labels in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        positives = [c for c, y in enumerate(row_labels) if y]
        positives = positives[:1] if multi_label == "first" else positives
        loss -= average(row[c] - log_sum for c in positives) / len(logits)
    return loss


def lmcl(case, scale="sqrt_nbit", margin=0.2, margin_on="cosine", multi_label="softmax",
         quantization=0.0, quantization_form="cosine", quantization_of="z"):  # fmt: skip
    classes = len(case.labels[0])
    scale = {"sqrt_nbit": math.sqrt(len(case.z[0])),
             "adaptive": math.sqrt(2) * math.log(classes - 1)}.get(scale, scale)  # fmt: skip

    def margin_logit(s, y):
        if margin_on == "angle":
            return scale * math.cos(math.acos(min(max(s, -0.99999), 0.99999)) + margin * y)
        return scale * (s - margin * y)

    logits = [[margin_logit(s, y) for s, y in zip(row, row_labels, strict=True)]
              for row, row_labels in zip(case.logits, case.labels, strict=True)]  # fmt: skip
    if multi_label == "softmax":
        loss = softmax_loss(logits, case.labels)
    else:
        weighted_sum = total_weight = 0.0
        for row, row_labels in zip(logits, case.labels, strict=True):
            for x, y in zip(row, row_labels, strict=True):
                full_weight = y or 1 / (1 + math.exp(-x)) >= 0.7  # present or predicted
                weight = 1 if full_weight or multi_label == "bce" else 1 / classes
                weight = weight if any(row_labels) else 0
                weighted_sum += weight * (softplus(x) - y * x)
                total_weight += 1 if multi_label == "bce" else weight
        loss = weighted_sum / (total_weight + (1e-7 if multi_label == "imbalance" else 0))
    if quantization_form == "divergence":
        return loss + quantization * bernoulli_divergence(case.z)
    codes = {"z": case.z, "u": case.u}[quantization_of]
    return loss + quantization * mean_gap(codes, quantization_form)


def cross_entropy(case, multi_label="even", codes=None, bias=True):
    codes = case.u if codes is None else codes
    classes = list(zip(case.centers, case.bias, strict=True))
    logits = [[dot(row, w) + b for w, b in classes] for row in codes]
    assert bias or not any(case.bias)
    return softmax_loss(logits, case.labels, multi_label)


def greedy(case, penalty=1.0, power=3.0, **others):
    distance = average(abs(abs(x) - 1) ** power for row in case.z for x in row)
    return cross_entropy(case, **others) + penalty * distance


def variational(case, divergence=0.1, log_epsilon=1e-7, **others):
    bits = [[(x + 1) / 2 for x in row] for row in case.u]
    result = cross_entropy(case, codes=bits, **others)
    return result + divergence * bernoulli_divergence(case.z, log_epsilon)


def vote(row_labels, case):
    votes = [sum(y * c[k] for y, c in zip(row_labels, case.centers, strict=True))
             for k in range(len(case.ties))]  # fmt: skip
    return [tie if v == 0 else math.copysign(1, v) for v, tie in zip(votes, case.ties, strict=True)]


def polarization(case, margin=1.0, bits="sum", multi_label="each", regularization=0.0):
    loss = 0.0
    for row, row_labels in zip(case.u, case.labels, strict=True):
        targets = [c for y, c in zip(row_labels, case.centers, strict=True) if y]
        if targets and multi_label == "vote":
            targets = [vote(row_labels, case)]
        loss += sum(max(0, margin - x * c) for target in targets
                    for x, c in zip(row, target, strict=True))  # fmt: skip
    loss /= len(case.u) * (len(case.u[0]) if bits == "mean" else 1)
    return loss + regularization * average(x * x for row in case.u for x in row)


def central_similarity(case, quantization=0.001, quantization_form="l2", pairwise=0.0):
    n, nbit = len(case.z), len(case.z[0])
    codes = [[math.tanh(x) for x in row] for row in case.z]
    loss = 0.0
    for code, row_labels in zip(codes, case.labels, strict=True):
        for x, t in zip(code, vote(row_labels, case), strict=True):
            p, target = (1 + x) / 2, (1 + t) / 2
            if any(row_labels):
                loss -= (target * math.log(p) + (1 - target) * math.log(1 - p)) / (n * nbit)
    loss += quantization * mean_gap(codes, quantization_form)
    if pairwise:
        pairs = every_pair(range(n // 2), range(n // 2, n))
        loss += pairwise * average(
            softplus(theta) - (dot(case.labels[i], case.labels[j]) > 0) * theta
            for i, j in pairs
            for theta in [10 / nbit * dot(codes[i], codes[j])]
        )
    return loss


def pairwise(case, alpha=1.0, product="inner", pairs="batch", weighting="balanced",
             class_weight=1.0, graded="none", quantization=0.0,
             quantization_form="log_cosh"):  # fmt: skip
    left = list(zip(case.u, case.labels, strict=True))
    right, half = left, len(left) // 2
    if pairs == "halves":
        left, right = left[:half], left[half:]
    if pairs == "memory":
        right = list(case.memory)
        for place, item in zip(case.index, left, strict=True):
            right[place] = item
    alpha = 10 / len(case.u[0]) if alpha == "10/nbit" else alpha
    similar, dissimilar = [], []
    for (a, y), (b, t) in every_pair(left, right):
        ip = cosine(a, b) if product == "cosine" else dot(a, b)
        theta = alpha * (min(max(ip, -15), 15) if product == "clipped" else ip)
        common = dot(y, t)
        if not common:
            dissimilar.append(softplus(theta))
            continue
        grade = {"none": 1, "cosine": 4 * cosine(y, t) ** 2,
                  "jaccard": common / sum(map(max, y, t))}[graded]  # fmt: skip
        similar.append(grade * (softplus(theta) - theta))
    s1, s0 = len(similar), len(dissimilar)
    s = s1 + s0
    w1, w0, norm = {
        "mean": (1, 1, s),
        "balanced": (s / max(s1, 1), s / max(s0, 1), s),
        "positives": (s / max(s1, 1), 1, s),
        "class": (class_weight, 1, class_weight * s1 + s0),
    }[weighting]
    loss = (w1 * sum(similar) + w0 * sum(dissimilar)) / norm if s else 0.0
    return loss + quantization * mean_gap(case.u, quantization_form)


def triplet(case, margin=5.0, half=False, quantization=1.0):
    n = len(case.u)
    margin = len(case.u[0]) / 2 if margin == "nbit/2" else margin
    anchors = []
    for i in range(n):
        similar = [p for p in range(n) if dot(case.labels[i], case.labels[p])]
        dissimilar = [q for q in range(n) if q not in similar]
        theta = [dot(case.u[i], row) / (2 if half else 1) for row in case.u]
        losses = []
        for p, q in every_pair(similar, dissimilar):
            tau = theta[p] - theta[q] - margin
            losses.append(softplus(-min(max(tau, -100), 50)))
        if losses:
            anchors.append(average(losses))
    return average(anchors) + quantization * mean_gap(case.u, "l2")


LOOPS = {
    "LMCL": lmcl, "SingleCosine": lmcl, "CrossEntropy": cross_entropy, "Greedy": greedy,
    "Variational": variational, "Polarization": polarization,
    "CentralSimilarity": central_similarity, "PairwiseLikelihood": pairwise,
    "TripletLikelihood": triplet,
}  # fmt: skip

RELAXED = {"Identity": float, "Tanh": math.tanh, "Continuation": math.tanh, "Sign": sign,
           "StochasticSign": sign}  # fmt: skip
"""Relaxations in their initial state; of a random one, the most probable value."""


@dataclass
class Numbers:
    """A case as lists of numbers."""

    z: list
    u: list
    labels: list
    index: list
    centers: list | None
    logits: list | None
    bias: list | None
    ties: list | None
    memory: list | None
