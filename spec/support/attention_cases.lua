-- attention_cases.lua - the part of cases.lua about attention: maps, masks, documents, entry
-- and exit states.
local pf = require "performer"
local array = require "spec.support.array"
local fill = require "spec.support.fill"

local N, AWAY, POS, I, ROWS = fill.N, fill.AWAY, fill.POS, fill.I, fill.ROWS
local cases = {}

local holes = ROWS({ 2, 5 }, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0)
local packed = ROWS({ 2, 5 }, 0, 0, 1, 1, 1, 3, 3, 3, 3, 4)

--- q, k, v for 2 items and 2 heads, and what else is given.
local function attend(Lq, Lk, more)
  -- Away from 0, where relu has its kink.
  local inputs = { q = AWAY(2, 2, Lq, 4), k = AWAY(2, 2, Lk, 4), v = N(2, 2, Lk, 3) }
  for name, x in pairs(more or {}) do inputs[name] = x end
  return inputs
end

local function entry(r) return { entry_s = N(2, 2, r, 3), entry_z = POS(2, 2, r),
  entry_shift = N(2, 2) } end
local function with(t, more)
  for name, value in pairs(more) do t[name] = value end
  return t
end

local W, W_heads = N(6, 4), N(2, 6, 4)
local no_gradient = { projection = true, entry_shift = true }
local as_it_is = { entry_s = true, entry_z = true, entry_shift = true }

--- Good cases for favor, or, renamed, for linear_attention.
local function favor(projected, attrs, more)
  local function case(Lq, Lk, inputs, own, extra)
    local all = with(with({}, attrs), own or {})
    return with({ attend(Lq, Lk, with(inputs or {}, { projection = projected })), all,
                  fixed = no_gradient, compact = as_it_is, relative = 1e-5, absolute = 2e-6 },
                  extra or {})
  end
  local r = projected and 6 or 4
  local good = {
    case(5, 5, {}, { causal = true }), case(5, 5, {}, {}), case(3, 7, {}, {}),
    case(5, 5, { mask = holes }, { causal = true }), case(5, 5, { mask = holes }, {}),
    case(5, 5, { documents = packed }, { causal = true }),
    case(5, 5, { documents = packed, mask = holes }, {}),
    case(5, 5, entry(r), { causal = true }),
    case(5, 5, with(entry(r), { documents = packed }), { causal = true }),
    case(4, 4, entry(r), {}), case(1, 1, {}, { causal = true }), case(0, 0, {}, { causal = true }),
    case(3, 0, {}, {}, { grad = false }),
    case(5, 5, with(entry(r), { mask = holes }), { causal = true, state = true }, { grad = false }),
    case(5, 5, { documents = packed }, { causal = true, state = true }, { grad = false }),
    case(70, 70, {}, { causal = true }, { grad = "slopes" }),
    case(3, 5, { limits = ROWS({ 2, 3 }, 4, 0, 5, 1, 5, 2) }, {}),
    case(3, 5, { limits = ROWS({ 3 }, 4, 0, 5), mask = holes }, {}, { grad = false }),
    case(5, 5, { prefix = ROWS({ 2 }, 3, 0) }, { causal = true }, { grad = false }),
  }
  for _, extra in ipairs(more or {}) do good[#good + 1] = extra end
  return good
end

--- out, and the exit state at its true size instead of s, z and shift.
local function true_state(outputs)
  local s, z, shift = outputs[2], outputs[3], outputs[4]
  if not shift then return outputs end
  local function times(x)
    local size = #x // #shift
    return array.new(x.shape, function(i) return x[i] * math.exp(shift[(i - 1) // size + 1]) end)
  end
  return { outputs[1], times(s), times(z) }
end

local attention_bad = {
  { with(attend(5, 5), { k = N(2, 2, 5, 3), projection = W }), {}, "q is [2, 2, 5, 4]",
    "k is [2, 2, 5, 3]", "dimension" },
  { with(attend(5, 5), { k = N(2, 3, 5, 4), projection = W }), {}, "q is [2, 2, 5, 4]",
    "k is [2, 3, 5, 4]", "the heads must agree" },
  { with(attend(5, 5), { v = N(2, 2, 4, 3), projection = W }), {}, "k is [2, 2, 5, 4]",
    "v is [2, 2, 4, 3]", "positions" },
  { with(attend(5, 5), { q = N(2, 5, 4), projection = W }), {}, "q is [2, 5, 4]", "4 dimensions" },
  { with(attend(5, 5), { v = I(2, 2, 2, 5, 3), projection = W }), {}, "v", "i32", "f32" },
  { with(attend(5, 5), { mask = I(2, 2, 4), projection = W }), {}, "mask is [2, 4]", "[2, 5]" },
  { with(attend(3, 5), { documents = packed, projection = W }), {}, "queries", "keys" },
}

--- The same errors for an op that takes no projection.
local function without_projection(bad)
  local list = {}
  for _, case in ipairs(bad) do
    local inputs = with({}, case[1])
    inputs.projection = nil
    list[#list + 1] = { inputs, table.unpack(case, 2) }
  end
  return list
end

cases.favor = { good = {}, bad = { table.unpack(attention_bad) }, finish = true_state }
--- The group with the gradient of its first case only: the others of the map have all.
local function briefly(group)
  for i = 2, #group do group[i].grad = false end
  return group
end

for _, group in ipairs {
  favor(W, { map = "softmax" },
    { { attend(4, 4, { projection = W }), { map = "softmax", scale = 0.3 },
        fixed = no_gradient } }),
  briefly(favor(W_heads, { map = "softmax" })), favor(nil, { map = "relu" }),
  briefly(favor(W, { map = "relu", eps = 0.1 })), favor(nil, { map = "elu" }),
  briefly(favor(W_heads, { map = "elu", scale = 0.7 })),
} do
  for _, case in ipairs(group) do table.insert(cases.favor.good, case) end
end
--- One case of each other map, full or causal, plain or projected as it comes. Where features
--- have both signs, inputs keep the denominators away from 0.
local others = {}
for _, map in ipairs(pf.kernels().maps) do
  if not ({ softmax = true, relu = true, elu = true })[map.name] then others[#others + 1] = map end
end
for i, map in ipairs(others) do
  local case = { attend(5, 5), { map = map.name, causal = i % 2 == 0 }, fixed = no_gradient,
                 relative = 1e-5, absolute = 2e-6 }
  if not map.positive then
    case[1].q, case[1].k, case[2].scale = POS(2, 2, 5, 4), POS(2, 2, 5, 4), 0.3
  end
  if map.softmax then case[1].projection = i % 2 == 0 and W or W_heads end
  table.insert(cases.favor.good, case)
end
for _, case in ipairs {
  { attend(5, 5, { projection = N(6, 3) }), {}, "projection is [6, 3]", "(features, 4)" },
  { attend(5, 5, { projection = W, tilts = N(2) }), {}, "softmax", "tilt" },
  { attend(5, 5, { projection = W, tilts = POS(3) }), { map = "softmax_plus" }, "tilts", "[2]" },
  { attend(5, 5, { projection = W }), { map = "softmax_plus", tilt = 0.3 }, "tilt", "1/4" },
  { attend(5, 5), { map = "softmax" }, "softmax", "projection" },
  { attend(3, 5, { projection = W }), { causal = true }, "q is [2, 2, 3, 4]", "k is [2, 2, 5, 4]",
    "causal" },
  { attend(5, 5, { projection = W, entry_s = N(2, 2, 6, 3) }), {}, "entry_s", "entry_z",
    "entry_shift" },
  { attend(5, 5, with(entry(5), { projection = W })), {}, "entry_s is [2, 2, 5, 3]",
    "[2, 2, 6, 3]" },
  { attend(5, 5, { projection = W }), { map = "softmx" }, "softmx", "softmax" },
} do
  table.insert(cases.favor.bad, case)
end

--- linear_attention takes features: positive ones, under other names.
local function as_features(inputs, positive)
  local renamed = with({}, inputs)
  renamed.q, renamed.k, renamed.projection = nil, nil, nil
  renamed.phi_q, renamed.phi_k = inputs.q, inputs.k
  if positive then
    renamed.phi_q, renamed.phi_k = POS(table.unpack(inputs.q.shape)),
    POS(table.unpack(inputs.k.shape))
  end
  return renamed
end

cases.linear_attention = { good = {}, bad = {}, finish = true_state }
for _, case in ipairs(favor(nil, {})) do
  case[1] = as_features(case[1], true)
  table.insert(cases.linear_attention.good, case)
end
for _, case in ipairs(without_projection(attention_bad)) do
  local texts = {}
  for i = 3, #case do texts[i - 2] = case[i]:gsub("^([qk]) is", "phi_%1 is") end
  table.insert(cases.linear_attention.bad, { as_features(case[1]), case[2], table.unpack(texts) })
end

local function exact(Lq, Lk, more, attrs)
  return { attend(Lq, Lk, more), attrs or {}, relative = 1e-5, absolute = 1e-6 }
end
cases.exact_attention = {
  good = {
    exact(5, 5), exact(5, 5, {}, { causal = true }), exact(3, 7, {}, { causal = true }),
    exact(3, 7),
    exact(5, 5, { mask = holes }), exact(5, 5, { mask = holes }, { causal = true }),
    exact(5, 5, { documents = packed }, { causal = true }),
    exact(3, 5, { documents = packed }, { causal = true }),
    exact(5, 5, { documents = packed, mask = holes }),
    exact(4, 4, {}, { scale = 0.1 }), exact(1, 1), exact(0, 0), with(exact(3, 0), { grad = false }),
    with(exact(130, 130, {}, { causal = true }), { grad = "slopes" }),
    exact(3, 5, { limits = ROWS({ 2, 3 }, 4, 0, 5, 1, 5, 2) }),
    with(exact(5, 5, { prefix = ROWS({ 2 }, 3, 0) }, { causal = true }), { grad = false }),
  },
  bad = without_projection(attention_bad),
}
table.insert(cases.exact_attention.bad,
  { attend(5, 3), { causal = true }, "q is [2, 2, 5, 4]", "k is [2, 2, 3, 4]", "causal" })

cases.identity_attention = {
  good = { { attend(5, 5) }, { attend(0, 0) } },
  bad = { { attend(3, 5), {}, "q is [2, 2, 3, 4]", "k is [2, 2, 5, 4]", "queries" },
          { with(attend(5, 5), { v = N(2, 2, 4, 3) }), {}, "k is [2, 2, 5, 4]",
            "v is [2, 2, 4, 3]" } },
}
cases.features = {
  good = {
    { { x = N(2, 2, 3, 4), projection = W } },
    { { x = N(2, 2, 3, 4), projection = W_heads }, { scale = 0.3 } },
    { { x = N(2, 2, 3, 4) }, { map = "relu" } },
    { { x = N(2, 2, 3, 4), projection = W }, { map = "relu", eps = 0.2 } },
    { { x = N(2, 2, 3, 4), projection = W_heads }, { map = "elu" } },
    { { x = N(2, 2, 0, 4) }, { map = "elu" } },
    { { x = N(2, 2, 3, 4) }, { map = "exp", eps = 0.2 } },
    { { x = N(2, 2, 3, 4), projection = W }, { map = "cos", eps = 0.2 } },
  },
  bad = {
    { { x = N(2, 3, 4), projection = W }, {}, "x is [2, 3, 4]",
      "(batch, heads, length, head_dim)" },
    { { x = N(2, 2, 3, 4), projection = N(6, 5) }, {}, "projection is [6, 5]", "(features, 4)" },
    { { x = I(3, 1, 1, 2, 4), projection = W }, {}, "x", "i32", "f32" },
  },
}
for i, map in ipairs(others) do
  table.insert(cases.features.good, { { x = N(2, 2, 3, 4),
    projection = (map.softmax or i % 2 == 1) and (i % 3 == 0 and W_heads or W) or nil },
    { map = map.name } })
end

do
  local function case(Lq, Lk, attrs, more, extra)
    local x = { q = AWAY(2, 2, Lq, 4), k = AWAY(2, 2, Lk, 4) }
    return with({ with(x, more or {}), attrs, fixed = { projection = true, tilts = true },
                  relative = 1e-5, absolute = 2e-6 }, extra or {})
  end
  local projected, heads = { projection = W }, { projection = W_heads }
  local open = ROWS({ 2, 5 }, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1)
  cases.log_partition = {
    good = {
      case(3, 5, {}, projected), case(5, 5, { causal = true }, heads),
      case(3, 5, {}, { projection = W, mask = holes }),
      case(5, 5, { causal = true }, { projection = W_heads, mask = open }),
      case(5, 5, { causal = true }, { projection = W, mask = holes }, { grad = false }), -- -inf
      case(3, 5, { scale = 0.3 }, projected), case(4, 5, { map = "softmax_hyp" }, heads),
      case(5, 5, { map = "relu", causal = true }), case(3, 5, { map = "elu" }, projected),
      case(3, 5, { map = "square" }, heads), case(5, 5, { map = "abs", causal = true }, heads),
      case(3, 5, { attention = "exact" }),
      case(5, 5, { attention = "exact", causal = true, scale = 0.5 }),
      case(3, 5, { attention = "exact" }, { mask = holes }),
      case(0, 5, {}, projected), case(3, 0, {}, projected, { grad = false }),
      case(3, 0, { attention = "exact" }, {}, { grad = false }),
      case(0, 0, { causal = true }, projected),
      case(150, 150, { causal = true }, heads, { grad = "slopes" }),
      case(140, 270, { attention = "exact" }, {}, { grad = "slopes" }),
    },
    bad = {
      { { q = N(2, 2, 3, 4), k = N(2, 2, 5, 3) }, { map = "relu" }, "q is [2, 2, 3, 4]",
        "k is [2, 2, 5, 3]", "width" },
      { { q = N(2, 2, 3, 4), k = N(2, 2, 5, 4) }, {}, "softmax", "projection" },
      { { q = N(2, 2, 3, 4), k = N(2, 2, 5, 4), projection = N(6, 3) }, {}, "(features, 4)" },
      { { q = N(2, 2, 3, 4), k = N(2, 2, 5, 4), projection = W }, { attention = "exact" },
        "exact" },
      { { q = N(2, 2, 3, 4), k = N(2, 2, 5, 4) }, { map = "elu", causal = true }, "causal" },
      { { q = N(2, 2, 3, 4), k = N(2, 2, 5, 4), mask = I(2, 2, 3) }, { map = "elu" }, "mask",
        "[2, 5]" },
      { { q = N(2, 2, 3, 4), k = N(2, 2, 5, 4), projection = W, tilts = N(3) },
        { map = "softmax_plus" }, "tilts", "[2]" },
    },
  }
end

-- ---- rooms -----------------------------------------------------------------------------

do
  local NAN, INF = 0 / 0, math.huge
  local odd = fill.F({ 1, 1, 6, 2 }, NAN, 1, 0, 0, 1, 0, -1, 0, NAN, NAN, INF, 1)
  local axes = fill.F({ 1, 1, 2, 2 }, 1, 0, 0, 1)
  local function lsh(L, rounds, r, o, mask)
    return { { x = N(2, 2, L, 4), rotations = N(2, rounds, 4, r), mask = mask }, o, grad = false }
  end
  local function routed(L, k, mask)
    return { { x = N(2, 2, L, 4), centroids = N(2, k, 4), mask = mask }, {}, grad = false }
  end
  cases.lsh_buckets = {
    good = {
      lsh(5, 1, 1), lsh(5, 3, 4), lsh(0, 2, 2), lsh(5, 2, 3, {}, holes),
      lsh(5, 2, 5, { first = 4 }), lsh(5, 1, 3, { first = 2 }, holes), lsh(150, 2, 40),
      lsh(3, 1, 150), lsh(3, 2, 150, { first = 258 }),
      { { x = odd, rotations = axes }, {}, grad = false }, -- not finite, zero, equal
    },
    bad = {
      { { x = N(2, 5, 4), rotations = N(2, 1, 4, 2) }, {}, "x is [2, 5, 4]", "(batch, heads" },
      { { x = N(2, 2, 5, 4), rotations = N(2, 4, 2) }, {}, "rotations is [2, 4, 2]",
        "(H, rounds, d, buckets / 2)", "H = 2, d = 4" },
      { { x = N(2, 2, 5, 4), rotations = N(2, 1, 3, 2) }, {}, "d = 4" },
      { { x = N(2, 2, 5, 4), rotations = N(2, 1, 4, 0) }, {}, "columns" },
      { { x = N(2, 2, 5, 4), rotations = N(2, 1, 4, 2), mask = I(2, 2, 4) }, {}, "mask", "[2, 5]" },
      { { x = N(2, 2, 5, 4), rotations = N(2, 1, 4, 3) }, { first = 3 }, "first is 3", "2 to 4" },
      { { x = N(2, 2, 5, 4), rotations = N(2, 1, 4, 3) }, { first = 6 }, "first is 6", "2 to 4" },
      { { x = I(3, 2, 2, 5, 4), rotations = N(2, 1, 4, 3) }, {}, "x", "i32", "f32" },
    },
  }
  cases.nearest_cluster = {
    good = {
      routed(5, 1), routed(5, 7), routed(0, 3), routed(5, 3, holes), routed(150, 20),
      routed(3, 200),
      { { x = odd, centroids = fill.F({ 1, 2, 2 }, 1, 0, 0, 1) }, {}, grad = false },
    },
    bad = {
      { { x = N(2, 2, 5, 4), centroids = N(3, 4) }, {}, "centroids is [3, 4]", "(H, clusters, d)" },
      { { x = N(2, 2, 5, 4), centroids = N(1, 3, 4) }, {}, "H = 2" },
      { { x = N(2, 2, 5, 4), centroids = N(2, 0, 4) }, {}, "at least one centroid" },
      { { x = N(2, 2, 5, 4), centroids = N(2, 3, 4), mask = I(2, 5) }, {}, "mask", "[2, 5]" },
      { { x = N(2, 2, 5, 4), centroids = I(3, 2, 3, 4) }, {}, "centroids", "i32", "f32" },
    },
  }
end

return cases
