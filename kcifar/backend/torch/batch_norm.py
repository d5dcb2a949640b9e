"""Batch normalisation in training, in native passes.

PyTorch's kernel for channels_last on the CPU adds up a channel's values one by one, in float32: at a batch of 512 its
output and gradients are off by 1e-4 of themselves. Here the rows are summed in up to 128 groups, then combined: exact
to rounding, and as fast. On a GPU, whose kernels sum in trees, PyTorch's is used.
"""

import functools

import torch

_ROWS = 64  # summed one by one: an error of a few roundings
_GROUPS = 128
_COLUMNS = 16_384  # of a row of groups: their sums stay in the cache


def batch_norm(x, gamma, beta, moving_mean, moving_variance, momentum, epsilon):
    """Normalises by the batch's own statistics and moves the moving ones towards them: m ← momentum·m + (1−momentum)·s.

    Args:
        x: (batch, channels) or (batch, channels, height, width), more than one value for each channel.
        gamma, beta: (channels,) float32.
        moving_mean, moving_variance: (channels,) float32, changed in place. The variance is the biased one, as Keras's.
    """
    if x.device.type == "cpu":
        return _in_groups(x, gamma, beta, moving_mean, moving_variance, momentum, epsilon)
    values = x.numel() // x.shape[1]
    # Views for each use: the backward pass would find what it was given changed by the next use.
    moving_variance.data.mul_(values / (values - 1))  # torch's own is the unbiased one
    moving = moving_mean.data, moving_variance.data
    y = torch.batch_norm(x, gamma, beta, *moving, True, 1 - momentum, epsilon, True)
    moving_variance.data.mul_((values - 1) / values)
    return y


def _in_groups(x, gamma, beta, moving_mean, moving_variance, momentum, epsilon):
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()
    with torch.no_grad():
        mean, variance = _moments(x)
        moving_mean.lerp_(mean, 1 - momentum)
        moving_variance.lerp_(variance, 1 - momentum)
    return _Normalise.apply(x, gamma, beta, mean, variance, epsilon)


class _Normalise(torch.autograd.Function):
    """γ·(x − μ)/√(σ² + ε) + β, where μ and σ² are those of x."""

    @staticmethod
    def forward(ctx, x, gamma, beta, mean, variance, epsilon):
        ctx.save_for_backward(x, gamma, mean, variance, (variance + epsilon).rsqrt_())
        ctx.epsilon = epsilon
        return torch.batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon, False)

    @staticmethod
    def backward(ctx, gradient):
        x, gamma, mean, variance, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return *_differentiable_gradients(gradient, x, gamma, ctx.epsilon), None, None, None
        of_gamma, of_beta = _gradient_sums(gradient, x, mean, inverse)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _gradient(gradient, x, gamma, mean, variance, inverse, of_gamma, of_beta, ctx.epsilon)
        return of_x, of_gamma, of_beta, None, None, None


def _differentiable_gradients(gradient, x, gamma, epsilon):
    """Those of x, γ and β, of operations that have gradients themselves."""
    across = [axis for axis in range(x.ndim) if axis != 1]
    values, dy = x.float(), gradient.float()
    variance, mean = torch.var_mean(values, across, unbiased=False, keepdim=True)
    inverse = (variance + epsilon).rsqrt()
    normalised = (values - mean) * inverse
    of_beta, of_gamma = dy.sum(across), (dy * normalised).sum(across)
    centred = dy - dy.mean(across, True) - normalised * (dy * normalised).mean(across, True)
    of_x = gamma.view(1, -1, *(1,) * (x.ndim - 2)) * inverse * centred
    return of_x.to(x.dtype), of_gamma.to(gamma.dtype), of_beta.to(gamma.dtype)


def _gradient(gradient, x, gamma, mean, variance, inverse, of_gamma, of_beta, epsilon):
    """γ/σ·(dy − Σdy/n − x̂·Σ(dy·x̂)/n), as in Ioffe & Szegedy 2015, section 3."""
    if x.dtype != torch.float32:  # of two passes the second would be on rounded values
        native = torch.ops.aten.native_batch_norm_backward
        return native(gradient, x, gamma, None, None, mean, inverse, True, epsilon, [True, False, False])[0]
    scale = gamma * inverse
    slope = -x.shape[1] / x.numel() * scale
    rest = torch.batch_norm(x, slope * of_gamma, slope * of_beta, mean, variance, False, 0.0, epsilon, False)
    return rest.addcmul_(gradient, scale.view(1, -1, *(1,) * (x.ndim - 2)))


def _moments(x):
    """Mean and biased variance of each channel."""
    rows = _rows(x)
    mean, variance = torch.batch_norm_update_stats(rows, *_zeros_and_ones(rows.shape[1]), 0.0)
    if rows.shape[1] == x.shape[1]:
        return mean, variance
    means, within = mean.view(-1, x.shape[1]), variance.view(-1, x.shape[1]).mean(0)
    mean = means.mean(0)
    return mean, (means - mean).square_().mean(0).add_(within)


def _gradient_sums(gradient, x, mean, inverse):
    """Σdy·x̂ and Σdy of each channel."""
    rows = _rows(x)
    groups = rows.shape[1] // x.shape[1]
    if groups > 1:
        mean, inverse = mean.repeat(groups), inverse.repeat(groups)
    _, ones = _zeros_and_ones(rows.shape[1])
    _, of_gamma, of_beta = torch.ops.aten.native_batch_norm_backward(
        _rows(gradient), rows, ones, None, None, mean, inverse, True, 0.0, [False, True, True]
    )
    if groups == 1:
        return of_gamma, of_beta
    return of_gamma.view(groups, -1).sum(0), of_beta.view(groups, -1).sum(0)


@functools.cache
@torch.inference_mode(False)  # kept for calls that gradients go through
def _zeros_and_ones(columns):
    """Moving statistics that say to the kernels that theirs are to be float32, and the weights of plain sums."""
    return torch.zeros(columns), torch.ones(columns)


def _rows(x):
    """The values as (rows, groups · channels), where each group is summed by itself."""
    channels = x.shape[1]
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1, _groups(x.numel() // channels, channels) * channels)


@functools.cache
def _groups(rows, channels):
    """A number of groups of equal size that keeps to the limits, where the rows can be divided so."""
    least, most = -(-rows // _ROWS), min(_GROUPS, max(1, _COLUMNS // channels))
    fitting = [groups for groups in range(1, min(most, rows) + 1) if rows % groups == 0]
    return next((groups for groups in fitting if groups >= least), fitting[-1])
