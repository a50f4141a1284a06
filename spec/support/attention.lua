-- attention.lua - attention in double precision, from the definition alone: feature maps row
-- by row with logarithms (plain exp(-|x|^2 / 2) underflows even doubles), then every pair of
-- a query and a key. Quadratic, sequential, and slow on purpose: the judge of the engine's
-- attentions, forward and backward. Arrays are those of support/array.lua.
local array = require "spec.support.array"

local attention = {}

-- ---- feature maps ----------------------------------------------------------------------

local log, exp, abs = math.log, math.exp, math.abs
local none = -math.huge

--- log|x| and the sign of x.
local function split(x)
  return x == 0 and none or log(abs(x)), x > 0 and 1 or x < 0 and -1 or 0
end

--- A generalised map: f and its derivative.
local function general(eps, f, slope)
  return {
    eps = eps,
    value = function(u, add) return split(f(u) + add) end,
    slope = function(u) return split(slope(u)) end,
  }
end

--- One that estimates exp(x.y): exp(u), parts of it in the second half of the features. half:
--- the sign of |x|^2 / 2 in the exponent.
local function estimator(half, root, value, slope)
  return {
    projected = true, eps = 0, half = half, width = root == 2 and 2 or nil,
    scale = function(d) return d ^ -0.25 end,
    factor = function(m) return (root * m) ^ -0.5 end,
    value = value, slope = slope,
  }
end

local function exponential(u) return u, 1 end
local function both_sides(u, _, part) return part == 1 and u or -u, 1 end
local function both_slopes(u, _, part)
  if part == 1 then return u, 1 end
  return -u, -1
end

--- Density and distribution of a standard normal number (erf by its series and its fraction).
local function density(u) return exp(-u * u / 2) / math.sqrt(2 * math.pi) end
local function below(u)
  if u < -3 then
    local fraction = 0 -- Mills' ratio as a continued fraction
    for n = 60, 1, -1 do fraction = n / (-u + fraction) end
    return density(u) / (-u + fraction)
  end
  if u > 3 then return 1 - below(-u) end
  local term, sum = u, u
  for n = 1, 80 do
    term = term * u * u / (2 * n + 1)
    sum = sum + term
  end
  return 0.5 + density(u) * sum
end

local function sigmoid(u) return 1 / (1 + exp(-u)) end
local function tanh(u)
  local e = exp(-2 * abs(u))
  return (u < 0 and -1 or 1) * (1 - e) / (1 + e)
end
local function one() return 1 end

--- phi(x)_a of u_a = w_a.x and half = |x|^2 / 2. `value` gives log|phi_a| and its sign, `slope`
-- the same of its derivative by u_a, both but for exp(half); width 2: two features of each
-- u. `factor` is left out of attention, where it cancels. scale(d) and eps are the defaults.
attention.maps = {
  softmax = estimator(-1, 1, exponential, exponential),
  softmax_reg = estimator(-1, 1, exponential, exponential),
  softmax_plus = estimator(-1, 1, exponential, exponential), -- at tilt 0
  softmax_hyp = estimator(-1, 2, both_sides, both_slopes),
  softmax_trig = estimator(1, 1,
    function(u, _, part) return split((part == 1 and math.cos or math.sin)(u)) end,
    function(u, _, part) return split(part == 1 and -math.sin(u) or math.cos(u)) end),
  relu = general(1e-3, function(u) return math.max(u, 0) end,
    function(u) return u > 0 and 1 or 0 end),
  elu = general(0, function(u) return u > 0 and u + 1 or exp(u) end,
    function(u) return u > 0 and 1 or exp(u) end),
  exp = general(0, exp, exp),
  gelu = general(0, function(u) return u * below(u) end,
    function(u) return below(u) + u * density(u) end),
  sigmoid = general(0, sigmoid, function(u) return sigmoid(u) * sigmoid(-u) end),
  tanh = general(0, tanh, function(u) return 1 - tanh(u) ^ 2 end),
  abs = general(0, abs, function(u) return u < 0 and -1 or 1 end),
  cos = general(0, math.cos, function(u) return -math.sin(u) end),
  sin = general(0, math.sin, math.cos),
  identity = general(0, function(u) return u end, one),
  square = general(0, function(u) return u * u end, function(u) return 2 * u end),
  requ = general(1e-3, function(u) return math.max(u, 0) ^ 2 end,
    function(u) return 2 * math.max(u, 0) end),
  -- The features are the input (linear_attention); of any sign.
  given = { given = true, eps = 0, value = split, slope = function() return 0, 1 end },
}
attention.maps.softmax_trig.width = 2

--- The definition of map `name`; raises for one that stands in the engine only.
function attention.map(name)
  return attention.maps[name] or
    error(("the map '%s' has no definition in spec/support/attention.lua"):format(name), 2)
end

--- Options with their defaults: scale, eps, m, r of a call.
local function resolve(o)
  local map = attention.map(o.map)
  local d = o.q.shape[4]
  local scale = o.scale and o.scale > 0 and o.scale or map.scale and map.scale(d) or 1
  local eps = o.eps and o.eps >= 0 and o.eps or map.eps
  if map.given then scale = 1 end
  local m = o.W and o.W.shape[#o.W.shape - 1] or d
  return map, scale, array.round(eps), m, m * (map.width or 1)
end

--- u = W x of a row at x (scaled), into u; returns |x|^2 / 2. W: list from w0 + 1 on, or nil.
local function project(x, first, d, scale, W, w0, m, u)
  local half = 0
  for i = 1, d do
    local xi = scale * x[first + i]
    half = half + 0.5 * xi * xi
  end
  for a = 1, m do
    if not W then
      u[a] = scale * x[first + a]
    else
      local sum, row = 0, w0 + (a - 1) * d
      for i = 1, d do sum = sum + W[row + i] * x[first + i] end
      u[a] = scale * sum
    end
  end
  return half
end

--- Features of the rows of one head: a flat list f (L, r), each row divided by exp(top), and
-- the list of tops. A row of zeros has top 0.
local function encode(o, x, first, L, head)
  local map, scale, eps, m, r = resolve(o)
  local d = x.shape[4]
  local w0 = o.W and #o.W.shape == 3 and head * m * d or 0
  local f, tops, u, logs, signs = {}, {}, {}, {}, {}
  for i = 1, L do
    local at = first + (i - 1) * d
    local half, top = project(x, at, d, scale, o.W, w0, m, u), none
    for a = 1, r do
      logs[a], signs[a] = map.value(u[(a - 1) % m + 1], eps, (a - 1) // m + 1)
      logs[a] = logs[a] + (map.half or 0) * half
      top = math.max(top, logs[a])
    end
    if top == none or map.given then top = 0 end
    tops[i] = top
    for a = 1, r do f[(i - 1) * r + a] = signs[a] * exp(logs[a] - top) end
  end
  return f, tops, r
end

--- phi(x) (B, H, L, r) by the definition, nothing divided out.
function attention.features(x, options)
  local o = { q = x, W = options.W, map = options.map, scale = options.scale, eps = options.eps }
  local map, _, _, m, r = resolve(o)
  local H, L, d = x.shape[2], x.shape[3], x.shape[4]
  local out = array.new({ x.shape[1], H, L, r })
  local factor = map.factor and map.factor(m) or 1
  for n = 0, x.shape[1] * H - 1 do
    local f, tops = encode(o, x, n * L * d, L, n % H)
    for i = 1, L do
      for a = 1, r do
        out[n * L * r + (i - 1) * r + a] = factor * math.exp(tops[i]) * f[(i - 1) * r + a]
      end
    end
  end
  return out
end

-- ---- who sees whom ---------------------------------------------------------------------

--- The last key that query i (from 1) of item b (from 0) may see: by limits (B, Lq) or (Lq), a
-- prefix (B), or causality, where the last query sees the last key.
local function last_key(o, b, i)
  local Lq, Lk = o.q.shape[3], o.k.shape[3]
  if o.limits then return o.limits[(#o.limits.shape == 2 and b * Lq or 0) + i] end
  local last = (o.causal or o.prefix) and i + Lk - Lq or Lk
  return o.prefix and math.max(last, o.prefix[b + 1]) or last
end

--- Document numbers (1, L) of offsets.
local function numbered(offsets, L)
  local documents, n = {}, 1
  for i = 1, L do
    while offsets[n + 1] < i do n = n + 1 end
    documents[i] = n
  end
  return documents
end

--- Where each position's document begins (from 1).
local function beginnings(documents, b, L)
  local first = {}
  for i = 1, L do
    local goes_on = i > 1 and documents[b * L + i] == documents[b * L + i - 1]
    first[i] = goes_on and first[i - 1] or i
  end
  return first
end

--- A function(i, j): may query i (from 1) of item b (from 0) see key j? o.pattern(p, j), if any,
-- is asked with places from 0 in a document: of the key, and of the last one that i sees, where a
-- query stands that does not see all.
local function visible(o, b)
  local Lk, mask, documents = o.k.shape[3], o.mask, o.documents
  if o.cu_seqlens then documents = numbered(o.cu_seqlens, Lk) end
  local first = documents and beginnings(documents, b, Lk)
  local full = not (o.causal or o.prefix or o.limits)
  local ahead = Lk - o.q.shape[3] -- packed queries that are fewer than keys are the last ones
  return function(i, j)
    local last = last_key(o, b, i)
    if j > last then return false end
    if mask and mask[b * Lk + j] == 0 then return false end
    if documents and documents[b * Lk + ahead + i] ~= documents[b * Lk + j] then return false end
    if not o.pattern then return true end
    local begins = first and first[ahead + i] or 1
    return o.pattern((full and i or last) - begins, j - begins)
  end
end
attention.visible = visible

--- Runs of documents: the last position of the first run, the first position of the last.
local function runs(o, b)
  local L = o.k.shape[3]
  local first_ends, last_begins = L, 1
  for i = 2, o.documents and L or 0 do
    if o.documents[b * L + i] ~= o.documents[b * L + i - 1] then
      if first_ends == L then first_ends = i - 1 end
      last_begins = i
    end
  end
  return first_ends, last_begins
end

-- ---- one head --------------------------------------------------------------------------

--- The rows of head n (from 0) as encoded lists, for exact attention the rows themselves.
local function head_of(o, n)
  local q, k = o.q, o.k
  local H, Lq, Lk, d = q.shape[2], q.shape[3], k.shape[3], q.shape[4]
  local head = { n = n, b = n // H, h = n % H, see = visible(o, n // H) }
  -- A head of keys and values serves H / Hk heads of queries in a row.
  local Hk = k.shape[2]
  local key_head = head.h // (H // math.max(Hk, 1))
  local nk = head.b * Hk + key_head
  head.qat, head.kat, head.vat = n * Lq * d, nk * Lk * d, nk * Lk * o.v.shape[4]
  if o.exact then
    head.scale = o.scale and o.scale > 0 and o.scale or 1 / math.sqrt(d)
    return head
  end
  head.key_head = key_head
  head.fq, head.mq, head.r = encode(o, q, head.qat, Lq, key_head)
  head.fk, head.mk = encode(o, k, head.kat, Lk, key_head)
  return head
end

--- Weights of query i over the keys, divided by exp(top): lists of positions and weights, and
-- (not exact) what each product of features was multiplied by. Also top.
local function weights_of(o, head, i)
  local seen, weight, factor, n, top = {}, {}, {}, 0, -math.huge
  local d, r = o.q.shape[4], head.r
  for j = 1, o.k.shape[3] do
    if head.see(i, j) then
      n = n + 1
      local weight_log
      if o.exact then
        local sum, a, b = 0, head.qat + (i - 1) * d, head.kat + (j - 1) * d
        for c = 1, d do sum = sum + o.q[a + c] * o.k[b + c] end
        weight_log = head.scale * sum + (o.gain and o.gain(head.n, i, j) or 0)
      else
        weight_log = head.mq[i] + head.mk[j]
      end
      seen[n], factor[n] = j, weight_log
      top = math.max(top, weight_log)
    end
  end
  local entry = o.entry and i <= head.first_ends and o.entry
  if entry then top = math.max(top, head.mq[i] + entry.shift[head.n + 1]) end
  for s = 1, n do
    local e = math.exp(factor[s] - top)
    factor[s] = e
    if o.exact then
      weight[s] = e
    else
      local sum, a, b = 0, (i - 1) * r, (seen[s] - 1) * r
      local fq, fk = head.fq, head.fk
      for c = 1, r do sum = sum + fq[a + c] * fk[b + c] end
      weight[s] = e * sum
    end
  end
  return seen, weight, factor, top, entry
end

--- Adds what the entry state says to query i: num (dv) and the denominator.
local function add_entry(head, i, entry, top, num, dv)
  local r, n, den = head.r, head.n, 0
  local e = math.exp(head.mq[i] + entry.shift[n + 1] - top)
  for a = 1, r do
    local f = e * head.fq[(i - 1) * r + a]
    den = den + f * entry.z[n * r + a]
    for c = 1, dv do num[c] = num[c] + f * entry.s[(n * r + a - 1) * dv + c] end
  end
  return den
end

--- out_i (into num) and its denominator.
local function row_of(o, head, i, num)
  local dv, v = o.v.shape[4], o.v
  local seen, weight, factor, top, entry = weights_of(o, head, i)
  local den = 0
  for c = 1, dv do num[c] = 0 end
  for s = 1, #seen do
    local w, at = weight[s], head.vat + (seen[s] - 1) * dv
    den = den + w
    for c = 1, dv do num[c] = num[c] + w * v[at + c] end
  end
  if entry then den = den + add_entry(head, i, entry, top, num, dv) end
  for c = 1, dv do num[c] = den ~= 0 and num[c] / den or 0 end
  return den, seen, weight, factor
end

--- o: q, k, v, and W, map, scale, eps, causal, mask, documents, entry = {s, z, shift}, or
-- exact = true with scale and gain(head, i, j), what a score gains. Returns out (B, H, Lq, dv).
function attention.forward(o)
  local B, H, Lq = o.q.shape[1], o.q.shape[2], o.q.shape[3]
  local dv, num = o.v.shape[4], {}
  local out = array.new({ B, H, Lq, dv })
  for n = 0, B * H - 1 do
    local head = head_of(o, n)
    head.first_ends = runs(o, head.b)
    for i = 1, Lq do
      row_of(o, head, i, num)
      for c = 1, dv do out[(n * Lq + i - 1) * dv + c] = num[c] end
    end
  end
  return out
end

--- The exit state at its true size (shift 0): s (B, H, r, dv), z (B, H, r).
function attention.exit(o)
  local B, H, Lk, dv = o.q.shape[1], o.q.shape[2], o.k.shape[3], o.v.shape[4]
  local _, _, _, _, r = resolve(o)
  local s, z = array.new({ B, H, r, dv }), array.new({ B, H, r })
  for n = 0, B * H - 1 do
    local head = head_of(o, n)
    local first_ends, begins = runs(o, head.b)
    local function add(a, z_more, s_more)
      z[n * r + a] = z[n * r + a] + z_more
      for c = 1, dv do
        local at = (n * r + a - 1) * dv + c
        s[at] = s[at] + s_more(c)
      end
    end
    for a = 1, r do
      if o.entry and first_ends == Lk then
        local e = math.exp(o.entry.shift[n + 1])
        add(a, e * o.entry.z[n * r + a],
            function(c) return e * o.entry.s[(n * r + a - 1) * dv + c] end)
      end
      for j = begins, Lk do
        if not (o.mask and o.mask[head.b * Lk + j] == 0) then
          local f = math.exp(head.mk[j]) * head.fk[(j - 1) * r + a]
          add(a, f, function(c) return f * o.v[head.vat + (j - 1) * dv + c] end)
        end
      end
    end
  end
  return s, z
end

-- ---- backward --------------------------------------------------------------------------

--- Gradients of one side's rows from those of its features g (L, r), as `encode` gives them:
--- f (L, r) divided by exp(top).
local function pull(o, head, x, at, L, g, f, tops, dx)
  local map, scale, eps, m, r = resolve(o)
  local d, u = x.shape[4], {}
  local w0 = o.W and #o.W.shape == 3 and head.key_head * m * d or 0
  for i = 1, L do
    local row, total = at + (i - 1) * d, 0
    local half = (map.half or 0) * project(x, row, d, scale, o.W, w0, m, u)
    for a = 1, r do
      local ga, j = g[(i - 1) * r + a], (a - 1) % m + 1
      total = total + ga * f[(i - 1) * r + a]
      local size, sign = map.slope(u[j], eps, (a - 1) // m + 1)
      local du = scale * ga * sign * exp(size + half - tops[i])
      if o.W then
        for c = 1, d do dx[row + c] = dx[row + c] + du * o.W[w0 + (j - 1) * d + c] end
      else
        dx[row + j] = dx[row + j] + du
      end
    end
    for c = 1, map.half and d or 0 do
      dx[row + c] = dx[row + c] + map.half * scale * scale * total * x[row + c]
    end
  end
end

local function zeros(n)
  local t = {}
  for i = 1, n do t[i] = 0 end
  return t
end

--- dq, dk, dv for cotangents g (B, H, Lq, dv). No entry state here.
function attention.backward(o, g)
  local q, k, v = o.q, o.k, o.v
  local dq, dk, dvalue = array.new(q.shape), array.new(k.shape), array.new(v.shape)
  local H, Lq, Lk, d, dv = q.shape[2], q.shape[3], k.shape[3], q.shape[4], v.shape[4]
  local out = {}
  for n = 0, q.shape[1] * H - 1 do
    local head = head_of(o, n)
    head.first_ends = runs(o, head.b)
    local r = head.r or 0
    local gq, gk, fq, fk = zeros(Lq * r), zeros(Lk * r), head.fq, head.fk
    for i = 1, Lq do
      local den, seen, weight, factor = row_of(o, head, i, out)
      local gat, qi = (n * Lq + i - 1) * dv, (i - 1) * r
      for s = 1, den ~= 0 and #seen or 0 do
        local j, w, dw = seen[s], weight[s] / den, 0
        local vat, kj = head.vat + (j - 1) * dv, (j - 1) * r
        for c = 1, dv do
          dvalue[vat + c] = dvalue[vat + c] + w * g[gat + c]
          dw = dw + g[gat + c] * (v[vat + c] - out[c])
        end
        if o.exact then
          local a, b, more = head.qat + (i - 1) * d, head.kat + (j - 1) * d, head.scale * w * dw
          for c = 1, d do
            dq[a + c] = dq[a + c] + more * k[b + c]
            dk[b + c] = dk[b + c] + more * q[a + c]
          end
        else
          local more = dw / den * factor[s]
          for a = 1, r do
            gq[qi + a] = gq[qi + a] + more * fk[kj + a]
            gk[kj + a] = gk[kj + a] + more * fq[qi + a]
          end
        end
      end
    end
    if not o.exact then
      pull(o, head, q, head.qat, Lq, gq, fq, head.mq, dq)
      pull(o, head, k, head.kat, Lk, gk, fk, head.mk, dk)
    end
  end
  return dq, dk, dvalue
end

return attention
