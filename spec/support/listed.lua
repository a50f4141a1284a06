-- listed.lua - attention over a pattern by definition, in double precision, and the cases of its
-- op. `require "spec.support.listed"`.
local pf = require "performer"
local array = require "spec.support.array"
local attention = require "spec.support.attention"
local fill = require "spec.support.fill"

local N, AWAY, I, ROWS = fill.N, fill.AWAY, fill.I, fill.ROWS
local listed = { oracle = {}, cases = {} }

-- ---- a pattern's tensor ----------------------------------------------------------------

--- A pattern as the op is given it: the rule's number (from 0) and its options as doubles.
function listed.words(rule, ...)
  local options = { ... }
  for n = #options + 1, #pf.patterns()[rule + 1].options do options[n] = 0 end
  local words = { 0x50465031, rule, #options }
  for _, x in ipairs(options) do
    words[#words + 1], words[#words + 2] = string.unpack("<i4i4", string.pack("<d", x))
  end
  return array.new({ #words }, function(i) return words[i] end, "i32")
end

local function options_of(words)
  local options = {}
  for n = 1, words[3] do
    options[n] = string.unpack("<d", string.pack("<i4i4", words[2 * n + 2], words[2 * n + 3]))
  end
  return options
end

--- A window of `width` keys, itself included: query at place p, key j, both from 0.
function listed.sliding(p, j, causal, width, ahead, dilation, global)
  if p < global or j < global then return true end
  local back = dilation * (causal and width - 1 or width)
  ahead = causal and 0 or dilation * (ahead < 0 and width or ahead)
  return p - j <= back and j - p <= ahead and (p - j) % dilation == 0
end

--- What a score gains by the distance of key j from query i's last one.
local function gain_of(x)
  local Lq, Lk = x.q.shape[3], x.k.shape[3]
  local H, W = x.q.shape[2], x.relative.shape[4]
  return function(n, i, j)
    local limit = x.limits and x.limits[n // H * Lq + i] or i + Lk - Lq
    local D = limit - j
    return D >= 0 and D < W and x.relative[(n * Lq + i - 1) * W + D + 1] or 0
  end
end

function listed.oracle.listed_attention(x, o)
  local options, causal = options_of(x.pattern), o.causal or x.limits ~= nil
  return { attention.forward {
    exact = true, q = x.q, k = x.k, v = x.v, mask = x.mask, documents = x.documents,
    limits = x.limits, prefix = x.prefix, cu_seqlens = x.cu_seqlens,
    causal = o.causal, scale = o.scale, gain = x.relative and gain_of(x),
    pattern = function(p, j) return listed.sliding(p, j, causal, table.unpack(options)) end,
  } }
end

-- ---- cases -----------------------------------------------------------------------------

local holes = ROWS({ 2, 5 }, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0)
local packed = ROWS({ 2, 5 }, 0, 0, 1, 1, 1, 3, 3, 3, 3, 4)

local function attend(Lq, Lk, pattern, more)
  local inputs = { q = AWAY(2, 2, Lq, 4), k = AWAY(2, 2, Lk, 4), v = N(2, 2, Lk, 3),
                   pattern = pattern }
  for name, x in pairs(more or {}) do inputs[name] = x end
  return inputs
end

local function case(Lq, Lk, options, more, attrs, extra)
  local all = { attend(Lq, Lk, listed.words(0, table.unpack(options)), more), attrs or {},
                relative = 1e-5, absolute = 1e-6 }
  for name, value in pairs(extra or {}) do all[name] = value end
  return all
end

local two = { 2, -1, 1, 0 }
listed.cases.listed_attention = {
  good = {
    case(5, 5, two), case(5, 5, two, {}, { causal = true }), case(3, 7, two, {}, { causal = true }),
    case(5, 5, { 1, 0, 1, 0 }), case(7, 7, { 2, -1, 2, 1 }),
    case(7, 7, { 2, -1, 2, 1 }, {}, { causal = true }),
    case(5, 5, { 2, 1, 1, 2 }, { mask = holes }),
    case(5, 5, two, { documents = packed, mask = holes }, { causal = true }),
    case(5, 5, two, { limits = ROWS({ 2, 5 }, 4, 0, 5, 1, 5, 2, 2, 3, 5, 1) }),
    case(5, 5, two, { prefix = ROWS({ 2 }, 3, 0) }, { causal = true }, { grad = false }),
    case(5, 5, two, { k = AWAY(2, 1, 5, 4), v = N(2, 1, 5, 3) }, { causal = true, scale = 0.3 }),
    case(3, 5, two, { documents = packed }, { causal = true }),
    case(5, 5, two, { relative = N(2, 2, 5, 3) }, { causal = true }),
    case(3, 7, { 3, -1, 1, 0 }, { relative = N(2, 2, 3, 2) }, { causal = true }),
    case(7, 7, { 2, -1, 2, 1 }, { relative = N(2, 2, 7, 7), k = AWAY(2, 1, 7, 4),
                                  v = N(2, 1, 7, 3) }, { causal = true }),
    case(5, 5, two, { relative = N(2, 2, 5, 3), documents = packed, mask = holes },
         { causal = true }),
    case(5, 5, two, { relative = N(2, 2, 5, 3),
                      limits = ROWS({ 2, 5 }, 4, 0, 5, 1, 5, 2, 2, 3, 5, 1) }),
    case(140, 140, { 70, -1, 1, 3 }, { relative = N(2, 2, 140, 80) }, { causal = true },
         { grad = "slopes" }),
    case(1, 1, two), case(0, 0, two), case(3, 0, two, {}, {}, { grad = false }),
    case(140, 140, { 70, -1, 1, 3 }, {}, { causal = true }, { grad = "slopes" }),
    case(140, 140, { 20, 5, 3, 2 }, {}, {}, { grad = "slopes" }),
  },
  bad = {
    { attend(5, 5), {}, "give a pattern" },
    { attend(5, 5, I(5, 4)), {}, "a pattern is what" },
    { attend(5, 5, N(4)), {}, "pattern", "f32", "i32" },
    { attend(5, 5, listed.words(0, 0, -1, 1, 0)), {}, "window", "0" },
    { attend(5, 5, listed.words(0, 2, -1, 1, 0), { buckets = I(2, 2, 2, 1, 5) }), {},
      "takes no buckets" },
    { attend(5, 3, listed.words(0, 2, -1, 1, 0)), { causal = true }, "q is [2, 2, 5, 4]",
      "causal" },
    { attend(5, 5, listed.words(0, 2, -1, 1, 0)), { skipped = -1 }, "skipped" },
    { attend(5, 5, listed.words(0, 2, -1, 1, 0), { relative = N(2, 2, 5, 3) }), {},
      "relative counts back" },
    { attend(5, 5, listed.words(0, 2, -1, 1, 0), { relative = N(2, 2, 4, 3) }), { causal = true },
      "relative must be" },
    { attend(5, 5, listed.words(0, 2, -1, 1, 0)), { dropout = 1 }, "dropout is 1" },
  },
}

return listed
