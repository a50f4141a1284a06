-- performer/kernel.lua: constructors of kernels, and attention over whole rows.
--
-- A kernel is the engine's object (bindings/lpf_kernel.c), made once: a feature map with its
-- options and, where it has random features, a projection that is drawn once from its seed.
-- Which attention it serves is another matter: pf.attention has a function for every kind.
local choices = require "performer.choices"
local core = require "performer.core"
local util = require "performer.util"
local words = require "performer.words"
local tables = require "performer.tables"

local kernel, attention = {}, {}
local op = core.op
local known = tables.kernels()

local maps, map_names = {}, {}
for _, map in ipairs(known.maps) do
  maps[map.name] = map
  map_names[#map_names + 1] = map.name
end

local option_names, defaults = { "projection" }, {}
for _, option in ipairs(known.options) do
  if option.name ~= "name" then option_names[#option_names + 1] = option.name end
  local default = option.default
  if option.kind == "bool" then
    default = default == "true"
  else
    default = tonumber(default) or default
  end
  defaults[option.name] = default
end

local kinds = {}
for _, kind in ipairs(tables.kinds()) do kinds[kind.name] = kind end

-- ---- kernel objects -----------------------------------------------------------------

local Kernel = core.methods "performer.kernel"

local is_custom = core.kernel_is_custom

local function is_kernel(value)
  return core.kind(value) == "kernel"
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
  local map = maps[self:name()]
  if not (map and map.tilted) then
    util.fail("fit: a softmax_plus kernel has a tilt to fit, this is a %s kernel", self:name())
  end
  util.check_rows("fit", { q = q, k = k })
  if k == nil then util.fail("fit: queries and keys are needed") end
  q, k = q:detach(), k:detach()
  local s = mean_square(q, k, self:settings(q:size(4)).scale)
  if s ~= s or s == math.huge then util.fail("fit: queries and keys must be finite") end
  return core.tilted_kernel(self, core.best_tilt(s, q:size(4)))
end

--- "256 positive orthogonal features", "not projected"
local function describe_features(k, options)
  local map, m = maps[options.name], options.features or 0
  local parts = {}
  if options.head_dim then m = k:settings().features end
  if m > 0 then
    parts[1] = tostring(m)
  elseif map.softmax and not options.head_dim then
    parts[1] = "4 x head_dim"
  else
    return "not projected"
  end
  if map.positive then parts[#parts + 1] = "positive" end
  parts[#parts + 1] = options.rows or defaults.rows
  return table.concat(parts, " ") .. " features"
end

core.set_tostring("performer.kernel", function(k)
  if is_custom(k) then
    local name = k:name()
    return name == core.unnamed_kernel and "custom kernel" or ("custom kernel '%s'"):format(name)
  end
  local options = k:config()
  options.name = options.name or "softmax"
  local parts = { describe_features(k, options) }
  if parts[1] ~= "not projected" then
    local redraw = options.redraw or defaults.redraw
    parts[2] = redraw == 0 and "redraw never" or ("redraw every %d steps"):format(redraw)
  end
  for _, option in ipairs(known.options) do
    local value = option.kind == "number" and options[option.name]
    if value then parts[#parts + 1] = ("%s %g"):format(option.name, value) end
  end
  for _, name in ipairs { "preset", "stabiliser" } do
    if options[name] then parts[#parts + 1] = ("%s %s"):format(name, options[name]) end
  end
  return ("%s kernel: %s"):format(options.name, table.concat(parts, ", "))
end)

local function new_kernel(name, options)
  options = util.copy(util.check_options(options, option_names, "kernel." .. name))
  local projection = options.projection
  options.projection, options.name = nil, name
  return core.kernel(options, projection)
end

for _, name in ipairs(map_names) do
  kernel[name] = function(options) return new_kernel(name, options) end
end

--- What custom kernels without a name were made of: {map, parameters, as = {name = kernel}}.
local unnamed = setmetatable({}, { __mode = "k" })

--- Puts the trained tensors of a module into `found`, under their own names.
local function add_module(found, module, name)
  local tensors, names = module:parameters()
  local trained = {}
  for i, t in ipairs(tensors) do
    found[name .. "." .. names[i]], trained[names[i]] = t, true
  end
  for inner in util.sorted(module:tensors()) do
    if not trained[inner] then
      util.fail("kernel.custom: parameter %s: its %s is not trained, and only what is trained is "
        .. "saved with a kernel", name, inner)
    end
  end
end

--- { name = tensor } of a table of tensors, modules, and tables of them: "mlp.1.weight".
local function flatten(t, prefix, found)
  for _, key in ipairs(util.sorted_keys(t)) do
    local value, name = t[key], prefix .. tostring(key)
    local kind = core.kind(value)
    if kind == "module" then
      add_module(found, value, name)
    elseif kind == "table" then
      flatten(value, name .. ".", found)
    else
      found[name] = value
    end
  end
  return found
end

--- A kernel of one's own: map(x, side) -> features (B, H, L, r), made of ops. parameters: a table
--- of the tensors (and modules, and tables of both) that the map learns with, for the layers that
--- take the kernel. name: by which a model that was saved finds it again;
--- one without a name is not found, only loaded into.
function kernel.custom(options)
  options = util.check_options(options, { "map", "parameters", "name" }, "kernel.custom")
  if type(options.map) ~= "function" then
    util.fail("kernel.custom: map must be a function(x, side), got %s", core.kind(options.map))
  end
  if options.parameters ~= nil and type(options.parameters) ~= "table" then
    util.fail("kernel.custom: parameters must be a table of tensors, got %s",
      core.kind(options.parameters))
  end
  local parameters = options.parameters and flatten(options.parameters, "", {})
  local k = core.host_kernel(options.name, options.map, parameters)
  if not options.name then unnamed[k] = { map = options.map, parameters = parameters, as = {} } end
  return k
end

--- A custom kernel under the name of the layer that takes it, if it has none of its own.
local function called(k, name)
  local made = unnamed[k]
  if not made or name == nil then return k end
  made.as[name] = made.as[name] or core.host_kernel(name, made.map, made.parameters)
  return made.as[name]
end

--- Exact attention, where an older script gives a layer or a state a kernel.
function kernel.exact() return util.shown({ name = "exact" }, "kernel") end

--- Kernels of names alone, so that a call in a loop does not draw anew; pf.seed forgets them.
local named = {}

local function forget() named = {} end

--- A kernel object from an object, a name, or a table with a name.
local function as_kernel(value, where)
  if is_kernel(value) then return value end
  if type(value) == "string" and named[value] then return named[value] end
  local options = type(value) == "string" and { name = value } or value
  if type(options) ~= "table" then
    util.fail("%s: a kernel is needed (pf.kernel.softmax{...}), got %s", where, core.kind(value))
  end
  options = util.copy(options)
  local name = options.name or "softmax"
  options.name = nil
  if not maps[name] then
    util.fail("%s: there is no kernel '%s'%s", where, tostring(name),
      choices.near(name, map_names))
  end
  local made = new_kernel(name, options)
  if type(value) == "string" then named[value] = made end
  return made
end

--- Attention as options say it, a name or { name = , OPTION = ... }, cut into both: name, options
--- of the kind's own (nil: none).
local function split_kind(value, where)
  if type(value) ~= "table" then return value end
  local own = util.copy(value)
  own.name = nil
  if type(value.name) ~= "string" then
    util.fail("%s: attention is a name, or a table with a name and its options", where)
  end
  local kind = kinds[value.name]
  if kind then
    util.check_row(own, kind, tables.kinds(), ("%s: %s attention"):format(where, kind.name))
  end
  return value.name, own
end

--- A feature map is no attention: says where it goes.
local function refuse_map(name, where)
  if type(name) ~= "string" or kinds[name] or not maps[name] then return end
  util.fail("%s: '%s' is no attention but a feature map of %s: kernel = \"%s\"", where, name,
    tables.kinds()[1].name, name)
end

--- The kind of attention and the kernel that options say, as the engine takes them:
--- { attention =, options =, kernel =, scale = }. A kernel named after a kind (and after no map)
--- says the kind, as older scripts have it. where: for messages.
local function resolve(options, where)
  local value, kind, own = options.kernel, split_kind(options.attention, where)
  local name = type(value) == "table" and value.name or value
  if kind == nil and type(name) == "string" and kinds[name] and not maps[name] then
    if type(value) == "table" then
      util.check_options(value, { "name", "scale" }, where .. ": kernel")
    end
    return { attention = name, scale = type(value) == "table" and value.scale or nil }
  end
  kind = kind or tables.kinds()[1].name
  refuse_map(kind, where)
  if not kinds[kind] then
    util.fail("%s: there is no attention '%s'%s", where, tostring(kind),
      choices.near(kind, util.sorted_keys(kinds)))
  end
  if kinds[kind].takes_kernel then
    return { attention = kind, options = own, kernel = as_kernel(value or "softmax", where) }
  end
  if value ~= nil then util.fail("%s: %s attention takes no kernel", where, kind) end
  return { attention = kind, options = own }
end

--- What a layer's kernel says must be so: a kernel named after a kind that takes none says the kind
--- and nothing more, and there are no given rows that nobody gave. A kernel beside an attention
--- that takes none waits for another one. Checkpoints, which bring the rows, are built from their
--- trees and do not come here.
local function check_layer(options, where)
  refuse_map(options.attention, where)
  local k = options.kernel
  if type(k) ~= "table" then return end
  util.check_words(k, { name = where .. ": kernel", options = known.options })
  if k.rows == "given" then
    util.fail("%s: kernel: rows = \"given\" needs the projection: give a kernel with one, " ..
      "pf.kernel.softmax { projection = W }", where)
  end
  local kind = not maps[k.name] and kinds[k.name or false]
  if not kind or kind.takes_kernel then return end
  for key in util.sorted(k) do
    if key ~= "name" then
      util.fail("%s: %s attention takes no kernel, so the kernel option '%s' has no effect; " ..
        "options of its own: attention = { name = \"%s\", ... }", where, kind.name, key,
        kind.name)
    end
  end
end

--- May attention of this name read a kernel? A name that is none the engine refuses.
local function reads_kernel(name)
  return name == nil or not kinds[name] or kinds[name].takes_kernel
end

--- Names of the attentions that a layer's options say.
local function named_kinds(options)
  local names, met = {}, {}
  local function add(value)
    local name = type(value) == "table" and value.name or value
    if not met[name] then names[#names + 1], met[name] = name, true end
  end
  if type(options.local_heads) == "number" and options.local_heads > 0 then add "sliding" end
  if type(options.head_groups) == "table" then
    local whole = options.attention or tables.kinds()[1].name
    for _, group in ipairs(options.head_groups) do add(group.attention or whole) end
  elseif options.attentions then
    for _, entry in ipairs(options.attentions) do add(entry) end
  elseif (options.local_heads or 0) == 0 or options.local_heads ~= (options.heads or 8) then
    add(options.attention or tables.kinds()[1].name)
  end
  return names
end

--- Does a kernel's table say more than the seed that a model writes into it?
local function says_something(k)
  if type(k) ~= "table" or is_custom(k) then return k ~= nil end
  for key in pairs(k) do
    if key ~= "seed" then return true end
  end
  return false
end

--- Where all heads are local, none is left for another attention.
local function check_local(options, where)
  if options.head_groups and options.local_window and options.local_heads == nil then
    util.fail("%s: 'local_window' is of local_heads, and head_groups say what heads there are; " ..
      "give a group attention = { name = \"sliding\", window = %s }", where,
      tostring(options.local_window))
  end
  local n, attention_given = options.local_heads or 0, options.attentions or options.attention
  if n == 0 or n ~= (options.heads or 8) or not attention_given then return end
  if attention_given == "sliding" and next(options.attention_options or {}) == nil then return end
  util.fail("%s: 'local_heads' is %s, all the heads, so that attention has none; give fewer, or " ..
    "leave attention out", where, tostring(n))
end

--- A kernel that no attention of the layer reads is refused; one that auto chose against is not.
local function check_read(options, where)
  check_local(options, where)
  local kernel_given = says_something(options.kernel)
  for _, k in ipairs(options.kernels or {}) do kernel_given = kernel_given or says_something(k) end
  if not kernel_given or options.chosen ~= nil then return end
  local k = options.kernel
  if type(k) == "table" and not maps[k.name] and kinds[k.name or false] then return end
  local names = named_kinds(options)
  for _, name in ipairs(names) do
    if reads_kernel(name) then return end
  end
  util.fail("%s: %s attention takes no kernel, so kernel has no effect; leave it out, or take " ..
    "attention = \"%s\"", where, table.concat(names, ", "), tables.kinds()[1].name)
end

-- ---- attention ----------------------------------------------------------------------

-- Who sees whom, as far as a kind takes it.
local function reach_of(kind) return { "causal", table.unpack(kind.takes) } end
-- What a kind that hands on a state takes.
local carried = { "state", "entry", "entry_s", "entry_z", "entry_shift" }

--- The options as the engine takes them: checked, and `entry` cut into its tensors.
local function read_options(options, allowed, where)
  options = util.copy(util.check_options(options, allowed, where))
  local entry = options.entry
  if entry ~= nil then
    util.check_options(entry, { "s", "z", "shift" }, where .. ": entry")
    options.entry_s, options.entry_z, options.entry_shift = entry.s, entry.z, entry.shift
    options.entry = nil
  end
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

--- An option that the call does not take is told by what is meant, or by the kinds that have it.
local function refuse_other(options, allowed, kind, where)
  if type(options) ~= "table" then return end
  local other, takes = {}, {}
  for _, name in ipairs(allowed) do takes[name] = true end
  for key, value in pairs(options) do
    if not takes[key] then other[key] = value end
  end
  for key in util.sorted(other) do
    local _, exact = util.meant(tostring(key), kind)
    local owned = false
    for _, row in pairs(kinds) do
      for _, option in ipairs(row.options) do owned = owned or option.name == key end
    end
    if exact or owned then util.check_row({ [key] = true }, kind, tables.kinds(), where) end
  end
end

--- Takes out of `options` those of the kind's own; nil: none.
local function take_own(options, kind)
  local own
  for _, option in ipairs(kind.options) do
    local value = options[option.name]
    if value ~= nil then
      own = own or {}
      own[option.name], options[option.name] = value, nil
    end
  end
  return own
end

--- The function of one kind: q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv), H a multiple
--- of Hk; a projection is drawn for the Hk heads of keys.
local function attention_of(kind)
  local where = "attention." .. kind.name
  local allowed = reach_of(kind)
  if kind.takes_kernel then allowed[#allowed + 1] = "kernel" end
  for _, option in ipairs(kind.options) do allowed[#allowed + 1] = option.name end
  if kind.carries then table.move(carried, 1, #carried, #allowed + 1, allowed) end
  if kind.table then -- rooms of positions, given or told by it
    table.move({ "rooms", kind.table }, 1, 2, #allowed + 1, allowed)
  end
  return function(q, k, v, options)
    check_qkv(where, q, k, v)
    refuse_other(options, allowed, kind, where)
    options = read_options(options, allowed, where)
    options.options, options.attention = take_own(options, kind), kind.name
    if kind.table then options.table = options[kind.table] end
    if kind.takes_kernel then options.kernel = as_kernel(options.kernel or "softmax", where) end
    return results(core.attention(q, k, v, options))
  end
end

for name, kind in pairs(kinds) do attention[name] = attention_of(kind) end

--- Linear attention with features given: phi_q (B, H, Lq, r), phi_k (B, H, Lk, r).
function attention.linear(phi_q, phi_k, v, options)
  local where = "attention.linear"
  check_qkv(where, phi_q, phi_k, v)
  local allowed = reach_of(tables.kinds()[1])
  table.move(carried, 1, #carried, #allowed + 1, allowed)
  return results(op.linear_attention(phi_q, phi_k, v, read_options(options, allowed, where)))
end

return {
  kernel = util.namespace(kernel, "pf.kernel", words.kernel),
  attention = util.namespace(attention, "pf.attention", words.attention),
  is_kernel = is_kernel, is_custom = is_custom, called = called, as_kernel = as_kernel,
  resolve = resolve, split_kind = split_kind, check_layer = check_layer,
  check_read = check_read, refuse_other = refuse_other,
  maps = maps, forget = forget,
  Kernel = Kernel, -- methods; advise.lua adds some
}
