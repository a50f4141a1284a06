-- oracle_parts.lua - of oracle.lua, whose rules hold here too: the ops that models are made of,
-- attention first among them.
local array = require "spec.support.array"
local attention = require "spec.support.attention"

local parts = {}

-- ---- parts of models -------------------------------------------------------------------

function parts.rotary(x, o)
  local y, H, L, d = array.copy(x.x), x.x.shape[2], x.x.shape[3], x.x.shape[4]
  local n = o.dims and o.dims > 0 and o.dims or d
  local base, offset = o.base or 10000, o.offset or 0
  for row = 0, #x.x // math.max(d, 1) - 1 do
    local b, l = row // (H * L), row % L
    local position = offset + (x.positions and x.positions[b * L + l + 1] or l)
    for i = 0, n // 2 - 1 do
      local one = row * d + (o.halves and i + 1 or 2 * i + 1)
      local two = o.halves and one + n // 2 or one + 1
      local angle = position * base ^ (-2 * i / n)
      local c, s = math.cos(angle), math.sin(angle)
      y[one] = x.x[one] * c - x.x[two] * s
      y[two] = x.x[one] * s + x.x[two] * c
    end
  end
  return { y }
end

function parts.short_conv(x, o)
  local B, L, D = x.x.shape[1], x.x.shape[2], x.x.shape[3]
  local W, y = x.weight.shape[1], array.new(x.x.shape)
  -- Centred: of an even number of taps one more looks back than ahead.
  local ahead = o.causal == false and (W - 1) // 2 or 0
  for b = 0, B - 1 do
    for t = 0, L - 1 do
      for j = 0, W - 1 do
        local s = t + ahead - j
        local counts = s >= 0 and s < L and
          not (x.documents and x.documents[b * L + s + 1] ~= x.documents[b * L + t + 1]) and
          not (x.mask and x.mask[b * L + s + 1] == 0)
        for c = 1, counts and D or 0 do
          local at = (b * L + t) * D + c
          y[at] = y[at] + x.weight[j * D + c] * x.x[(b * L + s) * D + c]
        end
      end
    end
  end
  return { y }
end

-- ---- attention -------------------------------------------------------------------------

--- Both rows of linear attention: outputs out, and with `state` s and z at their true size.
local function linear_attention(q, k, W, name)
  return function(x, o)
    local call = {
      q = x[q], k = x[k], v = x.v, W = x[W], map = name or o.map or "softmax", scale = o.scale,
      eps = o.eps, causal = o.causal, mask = x.mask, documents = x.documents, limits = x.limits,
      prefix = x.prefix, cu_seqlens = x.cu_seqlens,
      entry = x.entry_s and { s = x.entry_s, z = x.entry_z, shift = x.entry_shift },
    }
    local outputs = { attention.forward(call) }
    if o.state then outputs[2], outputs[3] = attention.exit(call) end
    return outputs
  end
end

parts.favor = linear_attention("q", "k", "projection")
parts.linear_attention = linear_attention("phi_q", "phi_k", "none", "given")

function parts.exact_attention(x, o)
  return { attention.forward {
    exact = true, q = x.q, k = x.k, v = x.v, mask = x.mask, documents = x.documents,
    limits = x.limits, prefix = x.prefix, cu_seqlens = x.cu_seqlens,
    causal = o.causal, scale = o.scale,
  } }
end

function parts.identity_attention(x) return { x.v } end

function parts.features(x, o)
  return { attention.features(x.x, {
    W = x.projection, map = o.map or "softmax", scale = o.scale, eps = o.eps,
  }) }
end

--- log sum_j of phi(q_i).phi(k_j), or of exp(scale^2 q_i.k_j), over the keys that i sees.
function parts.log_partition(x, o)
  local B, H, Lq, d = table.unpack(x.q.shape)
  local Lk, phi_q, phi_k, scale = x.k.shape[3], x.q, x.k, o.scale or 0
  if o.attention ~= "exact" then
    local options = { W = x.projection, map = o.map or "softmax", scale = o.scale, eps = o.eps }
    phi_q, phi_k = attention.features(x.q, options), attention.features(x.k, options)
  end
  local r, squared = phi_q.shape[4], (scale > 0 and scale or d ^ -0.25) ^ 2
  return { array.new({ B, H, Lq }, function(n)
    local head, i, sum = (n - 1) // Lq, (n - 1) % Lq + 1, 0
    for j = 1, o.causal and i or Lk do
      if not (x.mask and x.mask[head // H * Lk + j] == 0) then
        local dot = 0
        for a = 1, r do
          dot = dot + phi_q[(n - 1) * r + a] * phi_k[(head * Lk + j - 1) * r + a]
        end
        sum = sum + (o.attention == "exact" and math.exp(squared * dot) or dot)
      end
    end
    return math.log(sum)
  end) }
end


-- ---- rooms -----------------------------------------------------------------------------

--- The place, from 0, of the largest of n numbers f(1), f(2) ...: the first one; NaN is none.
local function first_largest(n, f)
  local top, at = -math.huge, 0
  for a = 1, n do
    if f(a) > top then top, at = f(a), a - 1 end
  end
  return at
end

--- (B, H, rounds, L): what choose(row, head, round) says of each row of x; ~ where the mask is 0.
local function numbers_of(x, rounds, choose)
  local B, H, L, d = table.unpack(x.x.shape)
  return { array.new({ B, H, rounds, L }, function(n)
    local l, t = (n - 1) % L, (n - 1) // L % rounds
    local pair = (n - 1) // L // rounds
    local number = choose(function(p) return x.x[(pair * L + l) * d + p] end, pair % H, t)
    local gone = x.mask and x.mask[pair // H * L + l + 1] == 0
    return gone and ~number or number
  end, "i32") }
end

local function dot(d, f, g)
  local sum = 0.0
  for p = 1, d do sum = sum + f(p) * g(p) end
  return sum
end

--- argmax of [x R, -x R] over r columns; of two factors h1 + b1 h2, of columns of their own.
function parts.lsh_buckets(x, o)
  local _, rounds, d, r = table.unpack(x.rotations.shape)
  local half = (o.first or 0) // 2
  local function bucket(row, head, t, from, n)
    return first_largest(2 * n, function(a)
      local column = from + (a - 1) % n + 1
      local u = dot(d, row, function(p)
        return x.rotations[((head * rounds + t) * d + p - 1) * r + column]
      end)
      return a > n and -u or u
    end)
  end
  return numbers_of(x, rounds, function(row, head, t)
    local low = half > 0 and bucket(row, head, t, 0, half) or 0
    return low + (half > 0 and o.first or 1) * bucket(row, head, t, half, r - half)
  end)
end

function parts.nearest_cluster(x)
  local _, clusters, d = table.unpack(x.centroids.shape)
  return numbers_of(x, 1, function(row, head)
    return first_largest(clusters, function(a)
      return dot(d, row, function(p) return x.centroids[(head * clusters + a - 1) * d + p] end)
    end)
  end)
end

return parts
