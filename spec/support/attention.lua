-- attention.lua - attention in double precision, from the definition alone: feature maps row
-- by row with logarithms (plain exp(-|x|^2 / 2) underflows even doubles), then every pair of
-- a query and a key. Quadratic, sequential, and slow on purpose: the judge of the engine's
-- attentions, forward and backward. Arrays are those of support/array.lua.
local array = require "spec.support.array"

local attention = {}

-- ---- feature maps ----------------------------------------------------------------------

--- phi(x)_a of u_a = w_a.x and half = |x|^2 / 2. `log` gives log phi_a, `slope` its
-- derivative by u_a; `halved`: phi has exp(-half) too. `factor` is left out of attention,
-- where it cancels. scale(d) and eps are the map's defaults.
attention.maps = {
  softmax = {
    projected = true, halved = true, eps = 0,
    scale = function(d) return d ^ -0.25 end,
    factor = function(m) return m ^ -0.5 end,
    log = function(u, half) return u - half end,
    slope = function() return 1 end,
  },
  relu = {
    eps = 1e-3,
    log = function(u, _, eps) return math.log(math.max(u, 0) + eps) end,
    slope = function(u, eps) return u > 0 and 1 / (u + eps) or 0 end,
  },
  elu = {
    eps = 0,
    log = function(u, _, eps) return math.log((u > 0 and u + 1 or math.exp(u)) + eps) end,
    slope = function(u, eps)
      if u > 0 then return 1 / (u + 1 + eps) end
      return math.exp(u) / (math.exp(u) + eps)
    end,
  },
  -- The features are the input (linear_attention); of any sign.
  given = { given = true, eps = 0 },
}

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
  return map, scale, array.round(eps), o.W and o.W.shape[#o.W.shape - 1] or d
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

--- Features of the rows of one head: a flat list f (L, m), each row divided by exp(top), and
-- the list of tops. A row of zeros has top 0.
local function encode(o, x, first, L, head)
  local map, scale, eps, m = resolve(o)
  local d = x.shape[4]
  local w0 = o.W and #o.W.shape == 3 and head * m * d or 0
  local f, tops, u, logs = {}, {}, {}, {}
  for i = 1, L do
    local at = first + (i - 1) * d
    if map.given then
      tops[i] = 0
      for a = 1, m do f[(i - 1) * m + a] = x[at + a] end
    else
      local half, top = project(x, at, d, scale, o.W, w0, m, u), -math.huge
      for a = 1, m do
        logs[a] = map.log(u[a], half, eps)
        top = math.max(top, logs[a])
      end
      if top == -math.huge then top = 0 end
      tops[i] = top
      for a = 1, m do f[(i - 1) * m + a] = math.exp(logs[a] - top) end
    end
  end
  return f, tops, m
end

--- phi(x) (B, H, L, r) by the definition, nothing divided out.
function attention.features(x, options)
  local o = { q = x, W = options.W, map = options.map, scale = options.scale, eps = options.eps }
  local map, _, _, m = resolve(o)
  local H, L, d = x.shape[2], x.shape[3], x.shape[4]
  local out = array.new({ x.shape[1], H, L, m })
  local factor = map.factor and map.factor(m) or 1
  for n = 0, x.shape[1] * H - 1 do
    local f, tops = encode(o, x, n * L * d, L, n % H)
    for i = 1, L do
      for a = 1, m do
        out[n * L * m + (i - 1) * m + a] = factor * math.exp(tops[i]) * f[(i - 1) * m + a]
      end
    end
  end
  return out
end

-- ---- who sees whom ---------------------------------------------------------------------

--- A function(i, j): may query i (from 1) of item b (from 0) see key j? The last query sees
-- the last key in causal attention.
local function visible(o, b)
  local Lq, Lk = o.q.shape[3], o.k.shape[3]
  local causal, mask, documents = o.causal, o.mask, o.documents
  return function(i, j)
    if causal and j > i + Lk - Lq then return false end
    if mask and mask[b * Lk + j] == 0 then return false end
    return not documents or documents[b * Lk + i] == documents[b * Lk + j]
  end
end

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
  head.qat, head.kat, head.vat = n * Lq * d, n * Lk * d, n * Lk * o.v.shape[4]
  if o.exact then
    head.scale = o.scale and o.scale > 0 and o.scale or 1 / math.sqrt(d)
    return head
  end
  head.fq, head.mq, head.r = encode(o, q, head.qat, Lq, head.h)
  head.fk, head.mk = encode(o, k, head.kat, Lk, head.h)
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
      local log
      if o.exact then
        local sum, a, b = 0, head.qat + (i - 1) * d, head.kat + (j - 1) * d
        for c = 1, d do sum = sum + o.q[a + c] * o.k[b + c] end
        log = head.scale * sum
      else
        log = head.mq[i] + head.mk[j]
      end
      seen[n], factor[n] = j, log
      top = math.max(top, log)
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
-- exact = true with scale. Returns out (B, H, Lq, dv).
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
  local _, _, _, r = resolve(o)
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

--- Gradients of one side's rows from those of its log-features g (L, r).
local function pull(o, head, x, at, L, g, dx)
  local map, scale, eps, m = resolve(o)
  local d, u = x.shape[4], {}
  local w0 = o.W and #o.W.shape == 3 and head.h * m * d or 0
  for i = 1, L do
    local row, total = at + (i - 1) * d, 0
    project(x, row, d, scale, o.W, w0, m, u)
    for a = 1, m do
      local ga = g[(i - 1) * m + a]
      total = total + ga
      local du = scale * ga * map.slope(u[a], eps)
      if o.W then
        for c = 1, d do dx[row + c] = dx[row + c] + du * o.W[w0 + (a - 1) * d + c] end
      else
        dx[row + a] = dx[row + a] + du
      end
    end
    for c = 1, map.halved and d or 0 do
      dx[row + c] = dx[row + c] - scale * scale * total * x[row + c]
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
            local part = more * fq[qi + a] * fk[kj + a]
            gq[qi + a] = gq[qi + a] + part
            gk[kj + a] = gk[kj + a] + part
          end
        end
      end
    end
    if not o.exact then
      pull(o, head, q, head.qat, Lq, gq, dq)
      pull(o, head, k, head.kat, Lk, gk, dk)
    end
  end
  return dq, dk, dvalue
end

return attention
