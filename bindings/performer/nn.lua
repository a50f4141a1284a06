-- performer/nn.lua: constructors of layers and models, layers of one's own, streams.
--
-- Every constructor is a row of the engine's layer table: one options table whose list part
-- holds the children. A layer of one's own is a plain table with tensors and a `forward`.
local core = require "performer.core"
local util = require "performer.util"
local tables = require "performer.tables"
local kernels = require "performer.kernel"

local nn = {}
local layers = {}
for _, layer in ipairs(tables.layers()) do
  layers[layer.type], layer.takes = layer, {}
  for _, option in ipairs(layer.options) do layer.takes[option.name] = true end
end

-- ---- layers of one's own ------------------------------------------------------------

local as_module

--- Collects {name, tensor, trained} and child modules of a table, in a stable order: list
--- part first, then names sorted. Tensors under `buffers` are saved but not trained.
local function walk(t, prefix, trained, found)
  if found.seen[t] then return end
  found.seen[t] = true
  for _, key in ipairs(util.sorted_keys(t)) do
    local value, name = rawget(t, key), prefix .. tostring(key)
    local kind = core.kind(value)
    if kind == "tensor" then
      found.tensors[#found.tensors + 1] = { name, value, trained and value:dtype() == "f32" }
    elseif kind == "module" then
      found.children[#found.children + 1] = value
    elseif kind == "table" and type(value.forward) == "function" then
      local child = as_module(value)
      rawset(t, key, child)
      found.children[#found.children + 1] = child
    elseif kind == "table" and getmetatable(value) == nil then
      walk(value, name .. ".", trained and key ~= "buffers", found)
    end
  end
end

--- A table with tensors, and `forward(self, x, pass)` if it is a layer, as a module.
local HOOKS = { "step", "begin", "part", "after_step" }

--- What is called later is a function now, or the message would name neither layer nor field.
local function check_hooks(t, name)
  for _, hook in ipairs(t.forward and HOOKS or {}) do
    if t[hook] and type(t[hook]) ~= "function" then
      util.fail("%s: its %s must be a function, got %s", name, hook, core.kind(t[hook]))
    end
  end
end

local function wrap(t, where)
  local found = { tensors = {}, children = {}, seen = {} }
  walk(t, "", true, found)
  local name = type(t.name) == "string" and t.name or where
  check_hooks(t, name)
  return core.new_layer(t, name, found.children, found.tensors)
end

function as_module(value)
  local kind = core.kind(value)
  if kind == "module" then return value end
  if kind == "table" and type(value.forward) == "function" then return wrap(value, "layer") end
  if kind == "table" then
    util.fail("a layer is needed: a module, or a table with a `forward` function")
  end
  util.fail("a layer is needed, got %s", kind)
end

--- A layer of one's own: tensors, child layers, `forward(self, x, pass)`, and, if it is to
--- stream, `step(self, x, state)`. `name` identifies it in checkpoints.
function nn.module(t)
  if type(t) ~= "table" or type(t.forward) ~= "function" then
    util.fail("nn.module: a table with a `forward` function is needed, got %s", core.kind(t))
  end
  return as_module(t)
end

--- Says how layers named `name` are built when a checkpoint is loaded: builder(children).
function nn.define(name, builder)
  if type(name) ~= "string" or type(builder) ~= "function" then
    util.fail("nn.define: a name and a function(children) are needed")
  end
  core.define_layer(name, function(children)
    local layer = builder(children)
    if type(layer) == "table" and layer.name == nil then layer.name = name end
    if core.kind(layer) == "module" or type(layer) == "table" and type(layer.forward) == "function"
    then
      return as_module(layer)
    end
    local at = debug and debug.getinfo(builder, "S")
    error(("%snn.define: the function for '%s' must return a layer, got %s"):format(
      at and ("%s:%d: "):format(at.short_src, at.linedefined) or "", name, core.kind(layer)), 0)
  end)
end

--- Any table of tensors as something that an optimizer can train.
function nn.parameters_of(value)
  if core.kind(value) == "module" then return value end
  if type(value) ~= "table" then
    util.fail("a module, or a table with tensors, is needed, got %s", core.kind(value))
  end
  if core.kind(value.forward) == "function" then return as_module(value) end
  return wrap(value, "parameters")
end

-- ---- constructors -------------------------------------------------------------------

--- The option that a bare number stands for: the only required one, or the only one.
local function bare_option(layer)
  local required = {}
  for _, option in ipairs(layer.options) do
    if option.required then required[#required + 1] = option.name end
  end
  if #required == 1 then return required[1] end
  if #layer.options == 1 then return layer.options[1].name end
end

-- Children that a table may name: nn.encoder_decoder { encoder = a, decoder = b }.
local child_names = { encoder_decoder = { "encoder", "decoder" }, classifier = { "trunk" },
                      regressor = { "trunk" }, tasks = { "trunk" } }

--- Is it a list, an entry a layer?
local function is_list(value) return type(value) == "table" and value[1] ~= nil end

--- attention = { "exact", "favor" } and kernel = { {...}, {...} } are the options of that name for
--- each layer.
local function split_lists(type_name, named)
  local where = "nn." .. type_name
  for one, list in pairs { attention = "attentions", kernel = "kernels" } do
    if is_list(named[one]) then
      if not layers[type_name].takes[list] then
        util.fail("%s: %s is a list, an entry a layer, which is for nn.performer", where, one)
      end
      named[list], named[one] = named[one], nil
    end
  end
  for i, entry in ipairs(named.attentions or {}) do
    if type(entry) == "table" and entry.name then
      entry = kernels.split_kind(entry, ("%s: layer %d"):format(where, i))
    end
    kernels.check_layer({ attention = type(entry) == "string" and entry or nil },
      ("%s: attention %d"):format(where, i))
  end
  if named.kernels then
    named.kernels = util.copy(named.kernels)
    for i, value in ipairs(named.kernels) do
      if type(value) == "string" then named.kernels[i] = { name = value } end
      kernels.check_layer({ kernel = named.kernels[i] }, ("%s: kernel %d"):format(where, i))
    end
  end
end

--- Is a group's kernel the whole's, as a model that was built writes it, with a seed of its own?
local function same_kernel(own, whole)
  if type(own) ~= "table" or type(whole) ~= "table" then return false end
  for _, pair in ipairs { { own, whole }, { whole, own } } do
    for key, value in pairs(pair[1]) do
      if key ~= "seed" and pair[2][key] ~= value then return false end
    end
  end
  return true
end

--- Groups of heads: { heads = n, attention = name or table, kernel = ... } each.
local function split_groups(type_name, named)
  if type(named.head_groups) ~= "table" then return end
  local groups = util.copy(named.head_groups)
  for i, group in ipairs(groups) do
    if type(group) == "table" then
      local where = ("nn.%s: head_groups: %d"):format(type_name, i)
      group = util.copy(group)
      groups[i] = group
      if type(group.attention) == "table" then
        group.attention, group.attention_options = kernels.split_kind(group.attention, where)
      end
      if type(group.kernel) == "string" then group.kernel = { name = group.kernel } end
      kernels.check_layer(group, where)
      if not same_kernel(group.kernel, named.kernel) then kernels.check_read(group, where) end
    end
  end
  named.head_groups = groups
end

local function split(type_name, options)
  local named, children, names = {}, {}, {}
  for _, name in ipairs(child_names[type_name] or {}) do
    if options[name] ~= nil then children[#children + 1] = as_module(options[name]) end
    names[name] = true
  end
  for i = 1, #options do children[#children + 1] = as_module(options[i]) end
  for key, value in pairs(options) do
    if type(key) == "string" then
      if not names[key] then named[key] = value end -- else it stands among the children
    elseif math.type(key) ~= "integer" or key < 1 or key > #options then
      util.fail("nn.%s: children are a list without holes", type_name)
    end
  end
  split_lists(type_name, named)
  split_groups(type_name, named)
  if type(named.attention) == "table" then
    named.attention, named.attention_options =
      kernels.split_kind(named.attention, "nn." .. type_name)
  end
  -- A kernel's name alone is enough; an object becomes its options (__config).
  if type(named.kernel) == "string" then named.kernel = { name = named.kernel } end
  kernels.check_layer(named, "nn." .. type_name)
  if layers[type_name].takes.kernel then kernels.check_read(named, "nn." .. type_name) end
  return named, children
end

local function constructor(layer)
  local bare = bare_option(layer)
  return function(options, more)
    if type(options) == "number" then
      if not bare then
        local names = {}
        for i, option in ipairs(layer.options) do names[i] = option.name end
        util.fail("nn.%s: a bare number says too little; options are a table, as "
          .. "nn.%s { %s = %s%s }", layer.type, layer.type, names[1] or "...", tostring(options),
          names[2] and type(more) == "number" and (", %s = %s"):format(names[2], more) or "")
      end
      local value = options
      options = util.copy(more == nil and {} or more)
      options[bare] = value
    elseif core.kind(options) == "module" then
      options = { options }
    elseif options ~= nil and type(options) ~= "table" then
      util.fail("nn.%s: options must be a table, got %s", layer.type, core.kind(options))
    end
    local named, children = split(layer.type, options or {})
    util.check_words(named, layer)
    util.check_attention(named, layer, tables.kinds())
    -- A layer around a map in Lua had a name of its own once; the kernel has it now.
    if kernels.is_custom(named.kernel) then
      named.kernel, named.name = kernels.called(named.kernel, named.name), nil
    end
    return core.new_module(layer.type, named, children)
  end
end

for name, layer in pairs(layers) do nn[name] = constructor(layer) end

--- Several tasks on one trunk: heads = { NAME = layer }, in the order of their names.
local make_tasks = nn.tasks
function nn.tasks(options, ...)
  if type(options) ~= "table" or options.heads == nil then return make_tasks(options, ...) end
  local o = util.copy(options)
  if type(o.heads) ~= "table" or o.names ~= nil or #o > 0 then
    util.fail("nn.tasks: heads is a table {NAME = layer}, and then trunk names the trunk")
  end
  if o.trunk == nil then util.fail("nn.tasks: the trunk is missing: trunk = a layer") end
  o.names, o.heads = {}, nil
  o[1], o.trunk = o.trunk, nil
  for _, name in ipairs(util.sorted_keys(options.heads)) do
    o.names[#o.names + 1], o[#o + 1] = tostring(name), options.heads[name]
  end
  return make_tasks(o, ...)
end

--- Encoder and decoder: modules, layers of one's own, or options of a performer, which the other
--- options here are shared with; a decoder that is made so is causal and has cross-attention.
local make_encoder_decoder = nn.encoder_decoder
function nn.encoder_decoder(options, ...)
  if type(options) ~= "table" or core.kind(options) == "module" or #options > 0 then
    return make_encoder_decoder(options, ...)
  end
  local shared = util.copy(options)
  shared.encoder, shared.decoder = nil, nil
  local function part(name, more)
    local own = options[name]
    if own ~= nil and (core.kind(own) ~= "table" or type(own.forward) == "function") then
      return own
    end
    local o = util.copy(shared)
    for _, over in ipairs { more, own or {} } do
      for key, value in pairs(over) do o[key] = value end
    end
    return nn.performer(o)
  end
  local encoder = part("encoder", { causal = false, decay = 0 })
  local width = core.kind(encoder) == "module" and encoder:options().dim
  local decoder = part("decoder", { causal = true, cross = true,
    memory_dim = width and width ~= (shared.dim or width) and width or nil })
  return make_encoder_decoder { encoder = encoder, decoder = decoder }
end

local MOST_CHILDREN <const> = 65536

--- A chain of make(1), make(2) ... make(n).
function nn.repeated(n, make)
  if math.type(n) ~= "integer" or n < 0 or n > MOST_CHILDREN or type(make) ~= "function" then
    util.fail("nn.repeated: a count of at most %d and a function(i) are needed", MOST_CHILDREN)
  end
  local children = {}
  for i = 1, n do children[i] = make(i) end
  return nn.chain(children)
end

--- A module from what :tree() gave.
nn.build = core.build

-- ---- methods ------------------------------------------------------------------------

local Module = core.methods("performer.module")
local Stream = core.methods("performer.stream")

local function short(value)
  if type(value) == "table" then
    local parts = {}
    for key, entry in util.sorted(value) do
      parts[#parts + 1] = math.type(key) and short(entry) or ("%s = %s"):format(key, short(entry))
    end
    return "{" .. table.concat(parts, ", ") .. "}"
  end
  if type(value) == "string" then return ("%q"):format(value) end
  return math.type(value) == "float" and ("%g"):format(value) or tostring(value)
end

--- The options that differ from their defaults, as text.
local function options_text(node)
  local layer, parts = layers[node.type], {}
  for _, option in ipairs(layer and layer.options or {}) do
    local value = node.options and node.options[option.name]
    if value ~= nil and tostring(value) ~= option.default and
        not (tonumber(option.default) and tonumber(option.default) == value) then
      parts[#parts + 1] = ("%s = %s"):format(option.name, short(value))
    end
  end
  return #parts > 0 and " { " .. table.concat(parts, ", ") .. " }" or ""
end

local function add_lines(node, indent, lines)
  local name = node.name and (" " .. node.name) or ""
  lines[#lines + 1] = ("%s%s%s%s"):format(("  "):rep(indent), node.type, name, options_text(node))
  for _, child in ipairs(node.children or {}) do add_lines(child, indent + 1, lines) end
end

core.set_tostring("performer.module", function(m)
  local lines, trained = {}, m:count()
  add_lines(m:tree(), 0, lines)
  lines[1] = ("%s  -- %d parameters"):format(lines[1], trained)
  return table.concat(lines, "\n")
end)

-- Layers that adapters are for where nothing is said: the matrices of attention and mlp in blocks.
local ADAPTED = "qkv|query|key_value|out|mlp.up|mlp.down|mlp.gate"

--- A pattern, or a list of them, as one.
local function pattern_of(match, where)
  if type(match) == "table" then
    for _, part in ipairs(match) do
      if type(part) ~= "string" then
        util.fail("%s: a pattern must be a text, got %s", where, core.kind(part))
      end
    end
    return table.concat(match, "|")
  end
  return match
end

--- Parameters whose names fit take no gradient from now on; how many they are. pattern: `*` any
--- run, `?` one character; without them a run of whole parts ("embedding", "blocks.1"); several
--- as a list.
function Module:freeze(pattern) return core.freeze(self, pattern_of(pattern, "freeze"), true) end

--- The other way; without a pattern all of them.
function Module:unfreeze(pattern)
  return core.freeze(self, pattern == nil and "*" or pattern_of(pattern, "unfreeze"), false)
end

--- Low-rank adapters beside linear layers whose names fit `match` (those of attention and mlp),
--- y = x W^T + scale (x A^T) B^T; all else is frozen. How many were made.
function Module:adapt(options)
  options = util.check_options(options, { "match", "rank", "scale" }, "adapt")
  return core.adapt(self, pattern_of(options.match or ADAPTED, "adapt"), options.rank or 8,
                    options.scale or 1)
end

--- A stream of tokens: stream:feed(ids), stream:next(token, sampling), stream:sample(sampling);
--- with batch = n of n sequences in step, whose ids are (n, L) and whose samples are lists. A model
--- of several inputs takes them here, once: stream { source = ids }.
function Module:stream(options)
  local names = { "batch" }
  for _, input in ipairs(self:inputs()) do names[#names + 1] = input.name end
  util.check_options(options, names, "stream")
  return core.open_stream(self, options and options.batch or 1, options)
end

--- The stream, or the state, that stream:save(path) or state:save(path) wrote with this model
--- and these weights; it goes on with the same bits. nil, message, code.
function Module:load_stream(path) return core.load_stream(self, path) end
function Module:load_state(path) return core.load_model_state(self, path) end

local feed, next_of = Stream.feed, Stream.next

--- Ids as the engine takes them: lists of lists become (batch, L).
local function rows_of(ids)
  if type(ids) == "table" and type(ids[1]) == "table" then
    return core.tensor(ids, { dtype = "i32" })
  end
  return ids
end

function Stream:feed(ids) return feed(self, rows_of(ids)) end
function Stream:next(token, sampling) return next_of(self, rows_of(token), sampling) end

--- Feeds `token` and samples n tokens; returns the list.
function Stream:take(token, n, sampling)
  local ids = {}
  for i = 1, n do
    token = self:next(token, sampling)
    ids[i] = token
  end
  return ids
end

return { nn = util.namespace(nn, "pf.nn", require("performer.words").nn), layers = layers }
