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

--- Name and options as the engine takes them, those of a given projection filled in.
local function plain(k)
  local config = util.copy(k.options)
  config.name = k.name
  if k.given then
    config.features, config.project, config.rows = k.given:size(-2), true, "given"
    config.per_head = k.given:rank() == 3
  end
  return config
end

--- What the options come to for heads of width `head_dim`, with presets and defaults filled in:
--- {features (0: not projected), scale, ratio, eps, tilt}.
function Kernel:settings(head_dim)
  if self.map then util.fail("a custom kernel has no settings: it is what its map does") end
  head_dim = head_dim or self.options.head_dim
  if not head_dim then util.fail("kernel: settings depend on head_dim; give it") end
  local known = self.settled[head_dim]
  if not known then
    known = core.settle_kernel(plain(self), head_dim)
    self.settled[head_dim] = known
  end
  return known
end

--- The projection, given or drawn once, and its factors where it has any.
local function draw(k, head_dim, heads)
  if k.map then return nil end
  if k.given then return k.given end
  head_dim = head_dim or k.options.head_dim
  if not head_dim then util.fail("kernel: give head_dim, to draw the projection") end
  if k:settings(head_dim).features == 0 then return nil end
  if not option(k, "per_head") then heads = nil end
  local key = ("%d/%d"):format(head_dim, heads or 0)
  local known = k.drawn[key]
  if not known then
    local W, factors = core.project_kernel(plain(k), head_dim, heads)
    known = { W:detach(), factors and factors:detach() }
    k.drawn[key] = known
  end
  return known[1], known[2]
end

--- The projection for heads of width `head_dim`: given, or drawn once; nil where there is none.
function Kernel:projection(head_dim, heads)
  return (draw(self, head_dim, heads))
end

--- The attributes of the ops that take a map.
local function map_options(k, head_dim)
  local settings = k:settings(head_dim)
  return { map = k.name, scale = settings.scale, ratio = settings.ratio, eps = settings.eps,
           tilt = settings.tilt }
end

--- phi(x) (B, H, L, r) by its plain definition, without any stabiliser.
function Kernel:features(x, side)
  if side ~= "query" and side ~= "key" then
    util.fail("features: the side is \"query\" or \"key\", got %s", tostring(side))
  end
  if self.map then return self.map(x, side) end
  return op.features(x, self:projection(x:size(-1), x:rank() == 4 and x:size(2) or nil),
    map_options(self, x:size(-1)))
end

--- mean |x + y|^2 over all pairs of a query and a key of a head, x and y scaled, from moments.
local function mean_square(q, k, scale)
  local function squared(x) return (x * x):sum(-1):mean():item() end
  local mean_q, mean_k = q:mean(3), k:mean(3) -- (B, H, d)
  local B, H, Hk, d = q:size(1), q:size(2), k:size(2), q:size(4)
  mean_q = mean_q:reshape(B, Hk, H // Hk, d):mean(3)
  return scale ^ 2 * (squared(q) + squared(k) + 2 * (mean_q * mean_k):sum(-1):mean():item())
end

--- The same kernel with the tilt that suits queries and keys like these, (B, H, L, d); for
--- softmax_plus. Fit it on data that is past: a tilt that came from the future is no causal one.
function Kernel:fit(q, k)
  if self.map or not maps[self.name].tilted then
    util.fail("fit: a softmax_plus kernel has a tilt to fit, this is a %s kernel", self.name)
  end
  for name, t in util.sorted { q = q, k = k } do
    if core.kind(t) ~= "tensor" or t:rank() ~= 4 then
      util.fail("fit: %s must be a tensor (B, H, L, d), got %s", name,
        core.kind(t) == "tensor" and tostring(t:shape()) or core.kind(t))
    end
  end
  if k == nil then util.fail("fit: queries and keys are needed") end
  q, k = q:detach(), k:detach()
  local head_dim = q:size(4)
  local s = mean_square(q, k, self:settings(head_dim).scale)
  if s ~= s or s == math.huge then util.fail("fit: queries and keys must be finite") end
  local options = util.copy(self.options)
  options.tilt, options.projection = core.best_tilt(s, head_dim), self.given
  local fitted = kernel[self.name](options)
  fitted.drawn = self.drawn -- one projection for both
  return fitted
end

--- The options as plain data, for a layer or a file.
function Kernel:config()
  if self.map then
    util.fail("a custom kernel lives in Lua: nn.attention{kernel = ...} takes it, and " ..
      "pf.attention.favor in a layer of your own")
  end
  return plain(self)
end

local function describe(k)
  if k.map then return "custom kernel" end
  local parts = {}
  local m = option(k, "features")
  if k.given or k.options.head_dim then
    m = k:settings(k.options.head_dim).features
  elseif m == 0 and maps[k.name].softmax then
    parts[1] = "4 x head_dim"
  end
  if m > 0 then parts[1] = tostring(m) end
  if parts[1] then
    if maps[k.name].positive then parts[#parts + 1] = "positive" end
    if k.given then
      parts[#parts + 1] = "given"
    else
      parts[#parts + 1] = option(k, "rows")
    end
    parts = { table.concat(parts, " ") .. " features" }
  else
    parts = { "not projected" }
  end
  local redraw = option(k, "redraw")
  if m > 0 or maps[k.name].softmax then
    parts[#parts + 1] = redraw == 0 and "redraw never" or ("redraw every %d steps"):format(redraw)
  end
  for _, name in ipairs { "scale", "ratio", "eps", "tilt" } do
    if k.options[name] then parts[#parts + 1] = ("%s %g"):format(name, k.options[name]) end
  end
  if k.options.preset then parts[#parts + 1] = ("preset %s"):format(k.options.preset) end
  return ("%s kernel: %s"):format(k.name, table.concat(parts, ", "))
end

local meta = {
  __index = Kernel, __tostring = describe, __name = "kernel",
  __config = function(k) return k:config() end,
}

local function is_kernel(value)
  return getmetatable(value) == meta
end

local function is_custom(value)
  return is_kernel(value) and value.map ~= nil
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
  if options.rows == "given" and given == nil then
    util.fail("kernel.%s: rows = \"given\" needs the projection", name)
  end
  local checked = util.copy(options)
  checked.name = name
  if given ~= nil then checked.features, checked.rows = given:size(-2), "given" end
  core.check_kernel(checked, options.head_dim or 64)
  return setmetatable({ name = name, options = options, given = given, drawn = {}, settled = {} },
    meta)
end

for _, name in ipairs(map_names) do
  kernel[name] = function(options) return new_kernel(name, options) end
end

--- A kernel of one's own: map(x, side) -> features (B, H, L, r), made of ops. parameters: a table
--- of the tensors that the map learns with, for the layer that takes the kernel.
function kernel.custom(options)
  util.check_options(options, { "map", "parameters" }, "kernel.custom")
  local map = options and options.map
  if type(map) ~= "function" then
    util.fail("kernel.custom: map must be a function(x, side), got %s", core.kind(map))
  end
  local parameters = options.parameters
  if parameters ~= nil and type(parameters) ~= "table" then
    util.fail("kernel.custom: parameters must be a table of tensors, got %s",
      core.kind(parameters))
  end
  return setmetatable({ name = "custom", options = {}, map = map, parameters = parameters,
                        drawn = {} }, meta)
end

--- Exact attention, where a layer or a state takes a kernel.
function kernel.exact() return { name = "exact" } end

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

-- Who sees whom: every attention takes these.
local reach = { "causal", "mask", "documents", "cu_seqlens", "limits", "prefix", "decay" }
local passed_on = { "state", "entry", "entry_s", "entry_z", "entry_shift", table.unpack(reach) }

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

--- Linear attention with a kernel: q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv), H a
--- multiple of Hk; a projection is drawn for the Hk heads of keys.
function attention.favor(q, k, v, options)
  check_qkv("attention.favor", q, k, v)
  local chosen = as_kernel(options and options.kernel or "softmax", "attention.favor")
  local o = op_options(options, { "kernel" }, "attention.favor")
  if chosen.map then
    return results(op.linear_attention(chosen.map(q, "query"), chosen.map(k, "key"), v, o))
  end
  for name, value in pairs(map_options(chosen, q:size(-1))) do o[name] = value end
  o.projection, o.factors = draw(chosen, q:size(-1), k:size(2))
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
  util.check_options(options, { "scale", table.unpack(reach) }, "attention.exact")
  return op.exact_attention(q, k, v, options or {})
end

--- Returns v, with zero gradients for q and k: the limit of speed.
function attention.identity(q, k, v, options)
  check_qkv("attention.identity", q, k, v)
  options = util.copy(util.check_options(options, reach, "attention.identity"))
  options.causal = nil -- the op has nothing to tell apart
  return op.identity_attention(q, k, v, options)
end

return {
  kernel = util.namespace(kernel, "pf.kernel"),
  attention = util.namespace(attention, "pf.attention"),
  is_kernel = is_kernel, is_custom = is_custom, as_kernel = as_kernel, maps = maps,
  plain = plain,
  Kernel = Kernel, -- methods; advise.lua adds some
}
