--- 02_kernel.lua - FAVOR+ against exact attention: what random features cost and what they buy.
--
--   build/release/bin/performer examples/02_kernel.lua
local pf = require "performer"
pf.seed(1)

-- Attention tensors are (B, H, L, d): batch, heads, length, head width.
local L, d, draws = 512, 32, 4

--- Random queries, keys and values; `norm` is about |x|^2 of a query scaled by d^(-1/4).
local function inputs(norm)
  local size = math.sqrt(norm / math.sqrt(d))
  return size * pf.randn(1, 1, L, d), size * pf.randn(1, 1, L, d), pf.randn(1, 1, L, d)
end

--- Root of the mean square of a - b, relative to that of b.
local function gap(a, b)
  return math.sqrt(a:mean_square(b):item() / b:square():mean():item())
end

-- A kernel is a feature map phi. Attention weighs a value by phi(q).phi(k), so sums over keys
-- can be taken once for all queries: the cost grows with L, not with L^2. Softmax attention's
-- weight is exp(x.y), and SM+ features phi(x)_a = exp(w_a.x - |x|^2/2) / sqrt(m) with random
-- w_a give it on average. A projection of its own for every seed:
local function error_of(options, q, k, v)
  local judge, sum = pf.attention.exact(q, k, v), 0
  for seed = 1, draws do
    local kernel = pf.kernel.softmax { features = options.features, seed = seed,
                                       rows = options.rows }
    sum = sum + gap(pf.attention.favor(q, k, v, { kernel = kernel }), judge)
  end
  return sum / draws
end

print(("FAVOR+ against exact attention, L %d, d %d, mean of %d draws"):format(L, d, draws))
print "\nMore features: the error falls like 1/sqrt(m); orthogonal rows beat independent ones."
print "features   orthogonal   independent"
local q, k, v = inputs(1)
for _, features in ipairs { 16, 64, 256, 1024 } do
  print(("%8d   %10.4f   %11.4f"):format(features,
    error_of({ features = features }, q, k, v),
    error_of({ features = features, rows = "iid" }, q, k, v)))
end

-- The price: the relative mean square error of one estimated weight is (exp(|x+y|^2) - 1)/m.
-- Long queries and keys need exponentially many features, so keep norms in hand (qk_norm).
print "\nLonger queries and keys, 256 features:"
print "|x|^2   error    of one weight, in theory"
for _, norm in ipairs { 0.25, 1, 4, 16 } do
  local long_q, long_k, long_v = inputs(norm)
  print(("%5.2f   %6.4f   %.3g"):format(norm, error_of({ features = 256 }, long_q, long_k, long_v),
    math.sqrt((math.exp(2 * norm) - 1) / 256))) -- |x+y|^2 = |x|^2 + |y|^2 where x.y = 0
end

-- What it buys: time per call as the sequence grows.
print "\nlength   favor, ms   exact, ms"
for _, length in ipairs { 512, 1024, 2048, 4096 } do
  local report = pf.attention.compare(pf.kernel.softmax { features = 64 },
    { length = length, dim = d, heads = 1, seed = 1 })
  print(("%6d   %9.2f   %9.2f"):format(length, report.ms, report.exact_ms))
end

-- A kernel written in Lua is a function of ops from rows to features. Here SM+ once more, by its
-- definition: it comes out where the built-in kernel does, as far from exact attention.
local built_in = pf.kernel.softmax { features = 256, head_dim = d, seed = 1 }
local W = built_in:projection(d) -- (features, d)
local by_hand = pf.kernel.custom { map = function(x)
  local scaled = d ^ -0.25 * x
  local half = 0.5 * scaled:square():sum(-1, { keep = true })
  return (scaled:matmul(W:transpose()) - half):exp()
end }
print "\nA kernel in Lua against the built-in one:"
local judge = pf.attention.exact(q, k, v)
for _, kernel in ipairs { built_in, by_hand } do
  local out = pf.attention.favor(q, k, v, { kernel = kernel })
  print(("%-65s off by %.4f"):format(tostring(kernel), gap(out, judge)))
end
