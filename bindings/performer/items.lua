-- performer/items.lua: the softmax that stands alone. Sets of items, log-partitions, attention
-- weights of chosen rows, columns and pairs, and pointing: what attention does beside mixing
-- values, through the same kernels. Adds itself to pf.attention.
local core = require "performer.core"
local util = require "performer.util"
local kernels = require "performer.kernel"
local tables = require "performer.tables"

local op, attention = core.op, kernels.attention

--- Not every kind's weights can be told.
local function check_told(name, where)
  local told = {}
  for _, kind in ipairs(tables.kinds()) do
    if kind.tells_weights then
      if kind.name == name then return end
      told[#told + 1] = kind.name
    end
  end
  util.fail("%s: the weights of %s attention can't be told; those of %s can", where, name,
    table.concat(told, ", "))
end

--- What `attention` and `kernel` of the options say, as the engine takes them, and `scale`: x =
--- scale q where exp(x.y) is estimated, or is exact.
local function resolve(options, where, head_dim)
  local how = kernels.resolve(options, where)
  check_told(how.attention, where)
  if how.options and next(how.options) ~= nil then
    util.fail("%s: weights are told of %s attention without options of its own; here scale is that "
      .. "of the rows, kernel = { name = %q, scale = ... }", where, how.attention, how.attention)
  end
  if not how.kernel then
    how.scale = how.scale or head_dim ^ -0.25
    return how, how.scale
  end
  local map = kernels.maps[how.kernel:name()]
  return how, map and map.softmax and how.kernel:settings(head_dim).scale or nil
end

local function check_tensor(t, rank, where, name, shape)
  if core.kind(t) ~= "tensor" then
    util.fail("%s: %s must be a tensor %s, got %s", where, name, shape, core.kind(t))
  end
  if t:rank() ~= rank then
    util.fail("%s: %s must be %s, got %s", where, name, shape, tostring(t:shape()))
  end
end

-- ---- sets of items --------------------------------------------------------------------

--- A softmax over a set of items: keys (N, d) and, if given, values (N, dv). One pass over
--- them, then O(m (d + dv)) a query. Empty sets take dim and value_dim instead.
function attention.items(options)
  local where = "attention.items"
  options = util.check_options(options, { "attention", "kernel", "keys", "values", "dim",
    "value_dim" }, where)
  local keys, values = options.keys, options.values
  if keys ~= nil then check_tensor(keys, 2, where, "keys", "(count, dim)") end
  if values ~= nil then
    check_tensor(values, 2, where, "values", "(count, value_dim)")
    if keys == nil then util.fail("%s: values need keys", where) end
  end
  local dim = keys and keys:size(2) or options.dim
  if not dim then util.fail("%s: give keys (count, dim), or dim for an empty set", where) end
  if keys and options.dim and options.dim ~= dim then
    util.fail("%s: dim is %s, but keys are %s", where, tostring(options.dim),
      tostring(keys:shape()))
  end
  local value_dim = values and values:size(2) or options.value_dim or 0
  local how = kernels.resolve(options, where)
  if not how.kernel then
    util.fail("%s: %s attention has no sums to keep, as attention by a kernel has (kernel = ...)",
      where, how.attention)
  end
  local items = core.items(how.kernel, dim, value_dim)
  if keys then items:add(keys, values) end
  return items
end

-- ---- log-partitions -------------------------------------------------------------------

local function log_partition(how, q, k, causal, mask)
  return core.log_partition(q, k, { attention = how.attention, kernel = how.kernel,
    scale = how.scale, causal = causal, mask = mask })
end

local function check_pair(where, q, k)
  check_tensor(q, 4, where, "q", "(B, H, Lq, d)")
  check_tensor(k, 4, where, "k", "(B, H, Lk, d)")
end

--- log sum_j exp(x_i.y_j), estimated by the kernel or exact: q (B, H, Lq, d), k (B, H, Lk, d)
--- -> (B, H, Lq). Differentiable.
function attention.log_partition(q, k, options)
  local where = "attention.log_partition"
  check_pair(where, q, k)
  options = util.check_options(options, { "attention", "kernel", "causal", "mask" }, where)
  return log_partition(resolve(options, where, q:size(4)), q, k, options.causal, options.mask)
end

-- ---- weights --------------------------------------------------------------------------

--- pairs {{i, j}, ...}, or a tensor (n, 2), as two lists.
local function unzip(pairs_given, where)
  if core.kind(pairs_given) == "tensor" then pairs_given = pairs_given:totable() end
  if type(pairs_given) ~= "table" then
    util.fail("%s: pairs is a list of {query, key}, got %s", where, core.kind(pairs_given))
  end
  local rows, columns = {}, {}
  for n, pair in ipairs(pairs_given) do
    if type(pair) ~= "table" or #pair ~= 2 then
      util.fail("%s: pair %d is not {query, key}", where, n)
    end
    rows[n], columns[n] = pair[1], pair[2]
  end
  return rows, columns
end

--- Attention weights of chosen queries (`rows`), keys (`columns`), both, or `pairs`, without
--- the Lq x Lk array. With rows: `top` largest and their positions; `entropy` = true.
function attention.weights(q, k, options)
  local where = "attention.weights"
  check_pair(where, q, k)
  options = util.check_options(options, { "attention", "kernel", "causal", "mask", "rows",
    "columns", "pairs", "top", "entropy" }, where)
  local rows, columns, paired = options.rows, options.columns, options.pairs ~= nil
  if paired then
    if rows or columns then util.fail("%s: pairs, or rows and columns", where) end
    rows, columns = unzip(options.pairs, where)
  end
  if not rows and not columns then
    util.fail("%s: choose rows (queries), columns (keys) or pairs", where)
  end
  if options.top ~= nil and (math.type(options.top) ~= "integer" or options.top < 1) then
    util.fail("%s: top must be at least 1, got %s", where, tostring(options.top))
  end
  local how = resolve(options, where, q:size(4))
  local weights, second, third = core.attention_weights(q, k, { attention = how.attention,
    kernel = how.kernel, scale = how.scale, causal = options.causal, mask = options.mask,
    paired = paired, top = options.top, entropy = options.entropy }, rows, columns)
  if options.top then second = second + 1 end -- positions count from 1; 0: none
  return weights, second, third
end

-- ---- pointing -------------------------------------------------------------------------

--- Targets (B, Lq) from 1, 0 for none: rows of keys, and 1 for those that count, as f32.
local function read_targets(targets, B, Lq, Lk, where)
  check_tensor(targets, 2, where, "targets", "(B, Lq) i32")
  if targets:dtype() ~= "i32" or targets:size(1) ~= B or targets:size(2) ~= Lq then
    util.fail("%s: targets is %s %s, must be [%d, %d] i32", where, tostring(targets:shape()),
      targets:dtype(), B, Lq)
  end
  local numbers = core.zeros(B, Lq):copy_(targets)
  if B * Lq > 0 and (numbers:max():item() > Lk or (-numbers):max():item() > 0) then
    util.fail("%s: targets are positions 1 to %d, or 0 for none", where, Lk)
  end
  local first = core.arange(B, { dtype = "i32" }):reshape(B, 1) * Lk
  return targets:maximum(1) + first - 1, -((-numbers):maximum(-1))
end

--- 1 where x > 0, else 0; no part of the graph.
local function above_0(x) return -((x:detach() * -1e38):maximum(-1)) end

--- log p of all keys, (B, Lq, Lk), from attention with one-hot values; -inf where p is 0.
local function estimated(q, k, kernel, mask)
  local B, Lq, Lk = q:size(1), q:size(3), k:size(3)
  local place = core.zeros(Lk):copy_(core.arange(Lk, { dtype = "i32" }))
  local apart = (place:reshape(Lk, 1) - place):abs()
  local hot = (1 + (-apart):maximum(-1)):reshape(1, 1, Lk, Lk) + core.zeros(B, 1, 1, 1)
  local p = attention.favor(q, k, hot, { kernel = kernel, mask = mask })
    :reshape(B, Lq, Lk)
  return p:maximum(1e-37):log() + above_0(p):log()
end

--- log p of all keys from exact scores over the log-partition z (B, Lq).
local function scored(scale, q, k, z, mask)
  local B, Lq, Lk, d = q:size(1), q:size(3), k:size(3), q:size(4)
  local size = z:maximum(-1e30):reshape(B, Lq, 1) -- -inf: no key in reach
  local kept = above_0((z - z:maximum(-1e30)):exp()):reshape(B, Lq, 1)
  if mask then kept = kept * mask:reshape(B, 1, Lk) end
  local scores = (q * scale ^ 2):reshape(B, Lq, d):matmul(k:reshape(B, Lk, d):transpose(2, 3))
  return scores - size + kept:log()
end

--- log p of the targets alone, (B, Lq): each query meets one key.
local function at_targets(how, scale, q, k, z, mask, options, where)
  local B, Lq, Lk, d = q:size(1), q:size(3), k:size(3), q:size(4)
  local rows, counted = read_targets(options.targets, B, Lq, Lk, where)
  local chosen = op.embedding(k:reshape(B * Lk, d), rows):reshape(B * Lq, 1, 1, d)
  q = q:reshape(B * Lq, 1, 1, d)
  local score
  if options.score == "exact" or not how.kernel then
    score = (q * chosen):sum(-1) * scale ^ 2
  else
    score = log_partition(how, q, chosen)
  end
  score = score:reshape(B, Lq)
  local kept = above_0((z - z:maximum(-1e30)):exp() * (score - score:maximum(-1e30)):exp())
  if mask then kept = kept * op.embedding(mask:reshape(B * Lk, 1), rows):reshape(B, Lq) end
  return (score:maximum(-1e30) - z:maximum(-1e30)) * counted + kept:maximum(1 - counted):log()
end

--- log p of pointing from query i to key j: q (B, Lq, d), k (B, Lk, d) -> (B, Lq, Lk), or, with
--- `targets` (B, Lq) i32 from 1 (0: none, log p 0), (B, Lq) without the large array. Both sides
--- of the fraction are the kernel's estimates, so that p is a distribution; score = "exact" puts
--- exp(x.y) itself over the estimated sum, which is none: a loss of it has no lower bound.
function attention.pointer(q, k, options)
  local where = "attention.pointer"
  check_tensor(q, 3, where, "q", "(B, Lq, d)")
  check_tensor(k, 3, where, "k", "(B, Lk, d)")
  options = util.check_options(options, { "attention", "kernel", "mask", "targets", "score" },
    where)
  local B, Lk, d = q:size(1), k:size(2), q:size(3)
  local how, scale = resolve(options, where, d)
  local score = options.score or "estimate"
  if score ~= "estimate" and score ~= "exact" then
    util.fail("%s: score is \"estimate\" or \"exact\", got %s", where, tostring(score))
  end
  if score == "exact" and not scale then
    util.fail("%s: exact scores need a softmax kernel, this is %s", where, how.kernel:name())
  end
  q, k = q:reshape(B, 1, q:size(2), d), k:reshape(B, 1, Lk, d)
  if not options.targets and score == "estimate" and how.kernel then
    return estimated(q, k, how.kernel, options.mask)
  end
  local z = log_partition(how, q, k, false, options.mask):reshape(B, q:size(3))
  local mask = options.mask and core.zeros(B, Lk):copy_(options.mask)
  if not options.targets then return scored(scale, q, k, z, mask) end
  return at_targets(how, scale, q, k, z, mask, options, where)
end

return attention
