-- performer/kernel.lua: kernels as objects, and the attention functions that take them.
--
-- A kernel is a feature map with its options and, where it has random features, a projection
-- that is drawn once from its seed. Names, options and checks are the engine's tables.
local core = require "performer.core"
local util = require "performer.util"

local kernel, attention = {}, {}
local op = core.op
local tables = core.kernels()

local maps, map_names = {}, {}
for _, map in ipairs(tables.maps) do
  maps[map.name] = map
  map_names[#map_names + 1] = map.name
end

local option_names, defaults = { "projection" }, {}
for _, option in ipairs(tables.options) do
  if option.name ~= "name" then option_names[#option_names + 1] = option.name end
  local default = option.default
  if option.kind == "bool" then
    default = default == "true"
  else
    default = tonumber(default) or default
  end
  defaults[option.name] = default
end

-- ---- kernel objects -----------------------------------------------------------------

local Kernel = {}

local function option(k, name)
  local value = k.options[name]
  if value == nil then return defaults[name] end
  return value
end

--- Features m for heads of width d; 0: not projected.
local function feature_count(k, head_dim)
  if k.given then return k.given:size(-2) end
  local m = option(k, "features")
  if m == 0 and maps[k.name].softmax then return 4 * head_dim end
  return m
end

--- The projection for heads of width `head_dim`: given, or drawn once; nil where there is none.
function Kernel:projection(head_dim, heads)
  if self.map then return nil end
  if self.given then return self.given end
  head_dim = head_dim or self.options.head_dim
  if not head_dim then util.fail("kernel: give head_dim, to draw the projection") end
  local features = feature_count(self, head_dim)
  if features == 0 then return nil end
  if not option(self, "per_head") then heads = nil end
  local key = ("%d/%d"):format(head_dim, heads or 0)
  if not self.drawn[key] then
    local seed = option(self, "seed")
    if seed == 0 then seed = core.info().seed end
    self.drawn[key] = core.draw_projection {
      features = features, head_dim = head_dim, heads = heads, seed = seed,
      layer = option(self, "layer"), iid = not option(self, "orthogonal"),
      regular = option(self, "regular"),
    }:detach()
  end
  return self.drawn[key]
end

--- phi(x) (B, H, L, r) by its plain definition, without any stabiliser.
function Kernel:features(x, side)
  if side ~= "query" and side ~= "key" then
    util.fail("features: the side is \"query\" or \"key\", got %s", tostring(side))
  end
  if self.map then return self.map(x, side) end
  return op.features(x, self:projection(x:size(-1), x:rank() == 4 and x:size(2) or nil), {
    map = self.name, scale = self.options.scale, eps = self.options.eps,
  })
end

--- The options as plain data, for a layer or a file.
function Kernel:config()
  if self.map then
    util.fail("a custom kernel lives in Lua: use it in pf.attention.favor, in a layer of your own")
  end
  if self.given then
    util.fail("a kernel with a given projection is no plain data: copy the projection into the " ..
      "layer's own, model:tensors()[\"....projection\"]:copy_(W)")
  end
  local config = util.copy(self.options)
  config.name = self.name
  return config
end

local function describe(k)
  if k.map then return "custom kernel" end
  local parts = {}
  local m = k.given and k.given:size(-2) or option(k, "features")
  if m == 0 and maps[k.name].softmax then
    parts[1] = k.options.head_dim and tostring(4 * k.options.head_dim) or "4 x head_dim"
  elseif m > 0 then
    parts[1] = tostring(m)
  end
  if parts[1] then
    if maps[k.name].positive then parts[#parts + 1] = "positive" end
    if k.given then
      parts[#parts + 1] = "given"
    else
      parts[#parts + 1] = option(k, "orthogonal") and "orthogonal" or "independent"
    end
    parts = { table.concat(parts, " ") .. " features" }
  else
    parts = { "not projected" }
  end
  local redraw = option(k, "redraw")
  if m > 0 or maps[k.name].softmax then
    parts[#parts + 1] = redraw == 0 and "redraw never" or ("redraw every %d steps"):format(redraw)
  end
  if k.options.eps then parts[#parts + 1] = ("eps %g"):format(k.options.eps) end
  return ("%s kernel: %s"):format(k.name, table.concat(parts, ", "))
end

local meta = {
  __index = Kernel, __tostring = describe, __name = "kernel",
  __config = function(k) return k:config() end,
}

local function is_kernel(value)
  return getmetatable(value) == meta
end

local function check_projection(name, W, options)
  if core.kind(W) ~= "tensor" then
    util.fail("kernel.%s: projection must be a tensor (features, head_dim), got %s", name,
      core.kind(W))
  end
  if W:rank() ~= 2 and W:rank() ~= 3 then
    util.fail("kernel.%s: projection must be (features, head_dim) or (heads, features, " ..
      "head_dim), got %s", name, tostring(W:shape()))
  end
  if options.features and options.features ~= W:size(-2) then
    util.fail("kernel.%s: features is %d, the projection has %d", name, options.features,
      W:size(-2))
  end
  if options.head_dim and options.head_dim ~= W:size(-1) then
    util.fail("kernel.%s: head_dim is %d, the projection has %d", name, options.head_dim,
      W:size(-1))
  end
end

local function new_kernel(name, options)
  options = util.copy(util.check_options(options, option_names, "kernel." .. name))
  local given = options.projection
  options.projection = nil
  if given ~= nil then
    check_projection(name, given, options)
    options.head_dim = given:size(-1)
    options.features = nil
  end
  local checked = util.copy(options)
  checked.name = name
  if given ~= nil then checked.features = given:size(-2) end
  core.check_kernel(checked, options.head_dim or 64)
  return setmetatable({ name = name, options = options, given = given, drawn = {} }, meta)
end

for _, name in ipairs(map_names) do
  kernel[name] = function(options) return new_kernel(name, options) end
end

--- A kernel of one's own: map(x, side) -> features (B, H, L, r), made of ops.
function kernel.custom(options)
  util.check_options(options, { "map" }, "kernel.custom")
  local map = options and options.map
  if type(map) ~= "function" then
    util.fail("kernel.custom: map must be a function(x, side), got %s", core.kind(map))
  end
  return setmetatable({ name = "custom", options = {}, map = map, drawn = {} }, meta)
end

--- Exact and identity attention, where a layer or a state takes a kernel.
function kernel.exact() return { name = "exact" } end
function kernel.identity() return { name = "identity" } end

--- A kernel object from an object, a name, or a table with a name.
local function as_kernel(value, where)
  if is_kernel(value) then return value end
  if type(value) == "string" then value = { name = value } end
  if type(value) ~= "table" then
    util.fail("%s: a kernel is needed (pf.kernel.softmax{...}), got %s", where, core.kind(value))
  end
  local options = util.copy(value)
  local name = options.name or "softmax"
  options.name = nil
  if not maps[name] then
    local near = type(name) == "string" and core.nearest(name, map_names)
    util.fail("%s: there is no kernel '%s'%s", where, tostring(name),
      near and (" (did you mean '%s'?)"):format(near) or "")
  end
  return new_kernel(name, options)
end

-- ---- attention ----------------------------------------------------------------------

local passed_on = { "mask", "documents", "causal", "decay", "state", "entry", "entry_s", "entry_z",
  "entry_shift" }

--- The options of an attention op: what is passed on, and `entry` cut into its tensors.
local function op_options(options, extra, where)
  local allowed = { table.unpack(passed_on) }
  for _, name in ipairs(extra) do allowed[#allowed + 1] = name end
  options = util.copy(util.check_options(options, allowed, where))
  local entry = options.entry
  if entry ~= nil then
    util.check_options(entry, { "s", "z", "shift" }, where .. ": entry")
    options.entry_s, options.entry_z, options.entry_shift = entry.s, entry.z, entry.shift
    options.entry = nil
  end
  for _, name in ipairs(extra) do options[name] = nil end
  return options
end

--- out, or out and the exit state {s, z, shift} when it was asked for.
local function results(out, s, z, shift)
  if s == nil then return out end
  return out, { s = s, z = z, shift = shift }
end

local function check_qkv(where, q, k, v)
  for name, t in util.sorted { q = q, k = k, v = v } do
    if core.kind(t) ~= "tensor" then
      util.fail("%s: %s must be a tensor (B, H, L, d), got %s", where, name, core.kind(t))
    end
  end
  if core.kind(q) ~= "tensor" or core.kind(k) ~= "tensor" or core.kind(v) ~= "tensor" then
    util.fail("%s: q, k and v are needed", where)
  end
  if q:rank() ~= 4 then
    util.fail("%s: q must be (B, H, L, d), got %s", where, tostring(q:shape()))
  end
end

--- Linear attention with a kernel: q (B, H, Lq, d), k (B, H, Lk, d), v (B, H, Lk, dv).
function attention.favor(q, k, v, options)
  check_qkv("attention.favor", q, k, v)
  local chosen = as_kernel(options and options.kernel or "softmax", "attention.favor")
  local o = op_options(options, { "kernel" }, "attention.favor")
  if chosen.map then
    return results(op.linear_attention(chosen.map(q, "query"), chosen.map(k, "key"), v, o))
  end
  o.map, o.scale, o.eps = chosen.name, chosen.options.scale, chosen.options.eps
  o.projection = chosen:projection(q:size(-1), q:size(2))
  return results(op.favor(q, k, v, o))
end

--- The same operator with features given: phi_q (B, H, Lq, r), phi_k (B, H, Lk, r).
function attention.linear(phi_q, phi_k, v, options)
  check_qkv("attention.linear", phi_q, phi_k, v)
  return results(op.linear_attention(phi_q, phi_k, v, op_options(options, {}, "attention.linear")))
end

--- Softmax attention, quadratic: the judge.
function attention.exact(q, k, v, options)
  check_qkv("attention.exact", q, k, v)
  util.check_options(options, { "causal", "mask", "documents", "decay", "scale" },
    "attention.exact")
  return op.exact_attention(q, k, v, options or {})
end

--- Returns v, with zero gradients for q and k: the limit of speed.
function attention.identity(q, k, v, options)
  check_qkv("attention.identity", q, k, v)
  util.check_options(options, { "causal", "mask", "documents" }, "attention.identity")
  return op.identity_attention(q, k, v)
end

-- ---- streaming ----------------------------------------------------------------------

--- The state of a custom kernel: linear attention with entry and exit states.
local CustomState = {}

local function move_on(state, q, k, v)
  local map = state.kernel.map
  local out, exit = attention.linear(map(q, "query"), map(k, "key"), v,
    { causal = true, state = true, entry = state.entry })
  for name, t in pairs(exit) do exit[name] = t:detach() end
  state.entry, state.seen = exit, state.seen + q:size(3)
  return out
end

function CustomState:prefill(q, k, v) return move_on(self, q, k, v) end

function CustomState:step(q, k, v)
  if q:size(3) ~= 1 then util.fail("step: one position at a time, q is %s", tostring(q:shape())) end
  return move_on(self, q, k, v)
end

function CustomState:fork()
  local copy = { kernel = self.kernel, entry = self.entry, seen = self.seen }
  return setmetatable(copy, getmetatable(self))
end

function CustomState:bytes()
  local n = 0
  for _, t in pairs(self.entry or {}) do n = n + 4 * t:numel() end
  return n
end

function CustomState:position() return self.seen end

function CustomState:save(path)
  return core.save(path, self.entry or {}, { position = tostring(self.seen) })
end

local custom_meta = {
  __index = CustomState, __name = "state",
  __tostring = function(s) return ("state after %d tokens, %d bytes"):format(s.seen, s:bytes()) end,
}

--- A streaming state: state:prefill(q, k, v), state:step(q1, k1, v1), fork, save, bytes.
function attention.state(options)
  util.check_options(options, { "kernel", "batch", "heads", "head_dim", "value_dim" },
    "attention.state")
  options = options or {}
  local given = options.kernel or "softmax"
  if given == "exact" then given = kernel.exact() end
  local exact = type(given) == "table" and not is_kernel(given) and given.name == "exact"
  local chosen = not exact and as_kernel(given, "attention.state")
  if chosen and chosen.map then
    return setmetatable({ kernel = chosen, seen = 0 }, custom_meta)
  end
  local head_dim = options.head_dim or (chosen and chosen.options.head_dim)
  if not head_dim then
    util.fail("attention.state: head_dim is needed, here or in the kernel")
  end
  local heads = options.heads or 1
  local config, projection = given, nil
  if chosen then
    projection = chosen:projection(head_dim, heads)
    config = util.copy(chosen.options)
    config.name, config.head_dim = chosen.name, head_dim
    if projection then config.features = projection:size(-2) end
  end
  return core.attention_state(config, projection, options.batch or 1, heads, head_dim,
    options.value_dim or head_dim)
end

--- How well a kernel does against exact attention on random rows: {error, exact_ms, ms},
--- error being max|a - b| / max|b|.
function attention.compare(chosen, options)
  options = util.check_options(options, { "length", "dim", "heads", "batch", "seed", "norm",
    "causal" }, "attention.compare")
  chosen = as_kernel(chosen, "attention.compare")
  local B, H = options.batch or 1, options.heads or 1
  local L, d = options.length or 512, options.dim or 64
  if options.seed then core.seed(options.seed) end
  -- |q|^2 / sqrt(d) is about norm^2: what the estimator's error depends on.
  local scale = (options.norm or 1) * d ^ -0.25
  local q, k = core.randn(B, H, L, d) * scale, core.randn(B, H, L, d) * scale
  local v = core.randn(B, H, L, d)
  local began = core.clock()
  local out = attention.favor(q, k, v, { kernel = chosen, causal = options.causal })
  local middle = core.clock()
  local judge = attention.exact(q, k, v, { causal = options.causal })
  local ended = core.clock()
  return {
    error = (out - judge):abs():max():item() / judge:abs():max():item(),
    ms = 1e3 * (middle - began), exact_ms = 1e3 * (ended - middle),
  }
end

return {
  kernel = util.namespace(kernel, "pf.kernel"),
  attention = util.namespace(attention, "pf.attention"),
  is_kernel = is_kernel,
}
