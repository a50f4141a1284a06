-- performer/state.lua: streaming states of attention alone, and what becomes of a Lua layer's
-- state when its stream is forked, reordered, saved and loaded.
local core = require "performer.core"
local util = require "performer.util"
local kernels = require "performer.kernel"
local tables = require "performer.tables"

local attention = kernels.attention

-- ---- opening and loading ----------------------------------------------------------------

local function check_decay(decay, where)
  if decay ~= nil and core.kind(decay) ~= "tensor" then
    util.fail("%s: decay must be a tensor (heads), got %s", where, core.kind(decay))
  end
end

--- The width of the heads, as far as it is said: here, in the kernel, or in its projection.
local function width_of(options, kernel)
  local given = options.kernel
  if options.head_dim then return options.head_dim end
  if type(given) == "table" then return given.head_dim end
  if kernel and not kernels.is_custom(kernel) then return kernel:config().head_dim end
end

--- Options of the kind's own that stand beside the others, as { attention = "sliding", window = 64
--- } has them, go into it: attention = { name = "sliding", window = 64 }.
local function gather(options, words, where)
  local name, own, o = type(options) == "table" and options.attention, {}, {}
  if type(name) ~= "string" then return options, words end
  words = table.move(words, 1, #words, 1, {})
  for _, kind in ipairs(tables.kinds()) do
    for _, option in ipairs(kind.name == name and kind.options or {}) do
      own[option.name], words[#words + 1] = true, option.name
    end
    if kind.name == name and kind.table then words[#words + 1] = kind.table end
    if kind.name == name then kernels.refuse_other(options, words, kind, where) end
  end
  if next(own) == nil then return options, words end
  o.attention = { name = name }
  for key, value in pairs(options) do
    if own[key] then o.attention[key] = value elseif key ~= "attention" then o[key] = value end
  end
  return o, words
end

--- The kind that options name; nil: none that there is.
local function kind_of(options)
  local name = type(options) == "table" and options.attention
  if type(name) == "table" then name = name.name end
  for _, kind in ipairs(tables.kinds()) do
    if kind.name == name then return kind end
  end
end

--- The word for what tells rooms of positions, of kinds that have some.
local function add_tables(words, options)
  local kind = kind_of(options)
  if kind and kind.table then words[#words + 1] = kind.table end
  return words
end

--- What it says, a tensor.
local function table_of(options, where)
  local kind = kind_of(options)
  local given = kind and kind.table and options[kind.table]
  if given ~= nil and given and core.kind(given) ~= "tensor" then
    util.fail("%s: %s must be a tensor, got %s", where, kind.table, core.kind(given))
  end
  return given or nil
end

--- A streaming state: state:prefill(q, k, v), state:step(q1, k1, v1), fork, reorder, merge, save,
--- bytes. Options attention, kernel, batch (1), heads (1; of keys and values), head_dim, value_dim
--- (head_dim), decay (heads), and the kind's own; of lsh rotations (heads, rounds, d, columns), of
--- routing centroids (heads, clusters, d), or those that the seed draws, as a call has them. With a
--- custom kernel, sizes that are not said are those of the first keys and values.
function attention.state(options)
  local where = "attention.state"
  local gathered, words = gather(options or {}, { "attention", "kernel", "batch", "heads",
    "head_dim", "value_dim", "decay" }, where)
  add_tables(words, options)
  util.check_options(options, words, where)
  options = gathered
  check_decay(options.decay, where)
  local o = kernels.resolve(options, where)
  o.scale, o.decay = nil, options.decay
  o.head_dim = width_of(options, o.kernel)
  local open = not o.head_dim and kernels.is_custom(o.kernel)
  if not o.head_dim and not open then
    util.fail("%s: head_dim is needed, here or in the kernel", where)
  end
  o.batch = options.batch or not open and 1 or nil
  o.heads = options.heads or not open and 1 or nil
  o.value_dim = options.value_dim or o.head_dim
  o.table = table_of(options, where)
  return core.attention_state(o)
end

--- The state that state:save(path) wrote; it goes on with the same bits. A kernel that is given
--- must be the state's own, and a custom one must be given. nil, message, code.
function attention.load_state(path, options)
  local where = "attention.load_state"
  local gathered, words = gather(options or {}, { "attention", "kernel", "decay" }, where)
  util.check_options(options, add_tables(words, options), where)
  options = gathered
  check_decay(options.decay, where)
  local o
  if options.kernel ~= nil or options.attention ~= nil then
    o = kernels.resolve(options, where)
    o.scale, o.decay, o.table = nil, options.decay, table_of(options, where)
  end
  local state, message, code = core.load_state(path, o)
  if not state then return nil, message, code end
  if core.state_kernel(state) == "given" then
    return nil, ("%s: the state is of a custom kernel: give it, load_state(path, {kernel = ...})")
      :format(path), "PF_EFORMAT"
  end
  return state
end

-- ---- states of layers that live in Lua --------------------------------------------------

--- Rows of a tensor (B, ...), one after another.
local function take(t, rows)
  local parts = {}
  for i, row in ipairs(rows) do parts[i] = t:slice(1, row, row) end
  while #parts > 1 do
    local next_parts = {}
    for i = 1, #parts, 2 do
      next_parts[#next_parts + 1] = parts[i + 1] and core.op.concat({ parts[i], parts[i + 1] }, 1)
        or parts[i]
    end
    parts = next_parts
  end
  return parts[1]:detach()
end

local copy

--- A tensor, state or table of them as a copy of its own; anything else is what it is.
local function copy_thing(value, kind, rows, batch, name, seen)
  if kind == "state" then
    local fork = value:fork()
    return rows and fork:reorder(rows) or fork
  end
  if kind == "table" then return copy(value, rows, batch, name, seen) end
  if not rows or value:rank() == 0 then return value:detach() end
  if value:size(1) ~= batch then
    util.fail("reorder: '%s' in a Lua layer's state is %s, but its first dimension must be " ..
      "the batch, %d", name, tostring(value:shape()), batch)
  end
  return take(value, rows)
end

--- seen: {thing = its copy}, so that what stands in two places is one thing in the copy, too.
local function copy_entry(value, rows, batch, name, seen)
  local kind = core.kind(value)
  if kind ~= "state" and kind ~= "tensor" and kind ~= "table" then return value end
  seen[value] = seen[value] or copy_thing(value, kind, rows, batch, name, seen)
  return seen[value]
end

--- A Lua layer's state with all it holds: tensors (batch first), states, tables of such.
function copy(state, rows, batch, name, seen)
  local to = setmetatable({}, getmetatable(state))
  seen[state] = to
  for key, value in next, state do
    local place = (name and name .. "." or "") .. tostring(key)
    rawset(to, key, copy_entry(value, rows, batch, place, seen))
  end
  return to
end

--- Keys with dots in them may name one place twice.
local function put(tensors, name, tensor)
  if tensors[name] then
    util.fail("save: a Lua layer's state has two tensors that a file would call '%s'", name)
  end
  tensors[name] = tensor
end

--- {name = tensor} and plain data of a Lua layer's state: keys "text" or 1, 2 ...
local function flatten(state, path, tensors)
  local data = {}
  for key, value in util.sorted(state) do
    local name = ("%s%s%s"):format(path, math.type(key) and "#" or "", tostring(key))
    local kind = core.kind(value)
    if not math.type(key) and type(key) ~= "string" then
      util.fail("save: a Lua layer's state has a key that is neither text nor number")
    elseif kind == "tensor" then
      put(tensors, name, value)
    elseif kind == "table" and getmetatable(value) == nil then
      data[#data + 1] = { key, flatten(value, name .. ".", tensors) }
    elseif kind == "state" and select(2, core.state_kernel(value)) then
      util.fail("save: '%s' in a Lua layer's state is of a custom kernel, which is no data", name)
    elseif kind == "state" then
      local parts, texts = core.pack_state(value)
      for part, tensor in pairs(parts) do put(tensors, name .. "." .. part, tensor) end
      data[#data + 1] = { key, texts, "state" }
    elseif kind == "number" or kind == "string" or kind == "boolean" then
      data[#data + 1] = { key, value }
    else
      util.fail("save: '%s' in a Lua layer's state is a %s; a file takes tensors, states and " ..
        "plain data", name, kind)
    end
    if kind == "tensor" then data[#data + 1] = { key } end
  end
  return data
end

--- The tensors of `tensors` whose names begin with `path`, without it.
local function below(path, tensors)
  local parts = {}
  for name, tensor in pairs(tensors) do
    if name:sub(1, #path) == path then parts[name:sub(#path + 1)] = tensor end
  end
  return parts
end

local function unflatten(data, path, tensors)
  local state = {}
  for _, entry in ipairs(data) do
    local key, value = entry[1], entry[2]
    local name = ("%s%s%s"):format(path, math.type(key) and "#" or "", tostring(key))
    if value == nil then
      state[key] = tensors[name] or util.fail("load: '%s' of a Lua layer's state is missing", name)
    elseif entry[3] == "state" then
      state[key] = core.unpack_state(below(name .. ".", tensors), value)
    elseif type(value) == "table" then
      state[key] = unflatten(value, name .. ".", tensors)
    else
      state[key] = value
    end
  end
  return state
end

core.layer_states {
  copy = function(state, rows, batch) return copy(state, rows, batch, nil, {}) end,
  save = function(state)
    local tensors = {}
    local data = flatten(state, "", tensors)
    return tensors, { entries = data }
  end,
  load = function(tensors, data) return unflatten(data.entries or {}, "", tensors) end,
}

