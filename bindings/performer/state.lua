-- performer/state.lua: streaming states of attention alone, also of kernels written in Lua, and
-- what becomes of a Lua layer's state when its stream is forked, reordered, saved and loaded.
local core = require "performer.core"
local util = require "performer.util"
local kernels = require "performer.kernel"

local attention = kernels.attention

-- ---- kernels written in Lua -----------------------------------------------------------

--- The state of a custom kernel: the engine's state of features (kernel "given") behind the
--- kernel's map. It opens with the first keys, which say how wide the features are.
local Custom = {}
local custom_meta = { __index = Custom, __name = "performer.state" }

local function new_custom(kernel, sizes, inner)
  return setmetatable({ kernel = kernel, sizes = sizes, inner = inner }, custom_meta)
end

local PROBES = 3

--- Numbers that tell this map from others: its features of a few rows of ordinary size, summed
--- with uneven weights, (H, 2 PROBES).
local function fingerprint(map, heads, head_dim)
  local rows = {}
  for p = 1, PROBES do
    rows[p] = {}
    for c = 1, head_dim do rows[p][c] = math.sin(1 + 3 * p + 7 * c) end
  end
  local list = {}
  for h = 1, heads do list[h] = rows end
  local x, sums = core.tensor { list }, {}
  for i, side in ipairs { "query", "key" } do
    local f = map(x, side)
    local weights = {}
    for a = 1, f:size(-1) do weights[a] = math.cos(a) end
    sums[i] = (f * core.tensor(weights)):sum(-1):reshape(heads, PROBES)
  end
  return core.op.concat(sums, -1):detach()
end

--- The options of the engine's state for features of q and k.
local function given_options(state, heads, head_dim, features, value_dim, batch)
  return {
    kernel = { name = "given", width = head_dim }, batch = batch, heads = heads,
    head_dim = features, value_dim = value_dim, decay = state.sizes.decay,
    fingerprint = fingerprint(state.kernel.map, heads, head_dim),
  }
end

local function check_sizes(state, k, v)
  local s = state.sizes
  for name, size in pairs { batch = k:size(1), heads = k:size(2), head_dim = k:size(4) } do
    if s[name] and s[name] ~= size then
      util.fail("attention.state: the state is of %s %d, k has %d", name, s[name], size)
    end
  end
  if s.value_dim and s.value_dim ~= v:size(4) then
    util.fail("attention.state: the state is of value_dim %d, v has %d", s.value_dim, v:size(4))
  end
end

local function move_on(state, method, q, k, v)
  for name, t in util.sorted { q = q, k = k, v = v } do
    if core.kind(t) ~= "tensor" or t:rank() ~= 4 then
      util.fail("%s: %s must be a tensor (B, H, L, d), got %s", method, name,
        core.kind(t) == "tensor" and tostring(t:shape()) or core.kind(t))
    end
  end
  if not (q and k and v) then util.fail("%s: q, k and v are needed", method) end
  local map = state.kernel.map
  local phi_q, phi_k = map(q, "query"), map(k, "key")
  if not state.inner then
    check_sizes(state, k, v)
    state.inner = core.attention_state(given_options(state, k:size(2), k:size(4), phi_k:size(-1),
      v:size(4), k:size(1)))
  end
  return state.inner[method](state.inner, phi_q, phi_k, v)
end

function Custom:prefill(q, k, v) return move_on(self, "prefill", q, k, v) end
function Custom:step(q, k, v) return move_on(self, "step", q, k, v) end

function Custom:fork()
  return new_custom(self.kernel, util.copy(self.sizes), self.inner and self.inner:fork())
end

--- Before the first keys all rows are alike, and only their number changes.
function Custom:reorder(rows)
  if self.inner then
    self.inner:reorder(rows)
    self.sizes.batch = self.inner:batch()
  elseif self.sizes.batch then
    self.sizes.batch = core.kind(rows) == "tensor" and rows:numel() or #rows
  end
  return self
end

function Custom:merge(later)
  if getmetatable(later) ~= custom_meta or later.kernel.map ~= self.kernel.map then
    util.fail("merge: the two states are of different kernels")
  end
  if later.inner and self.inner then
    self.inner:merge(later.inner)
  elseif later.inner then
    self.inner = later.inner:fork()
  end
  return self
end

function Custom:save(path)
  if not self.inner then
    util.fail("save: a custom kernel's state takes its sizes from the first keys, and has seen " ..
      "none")
  end
  return self.inner:save(path)
end

function Custom:bytes() return self.inner and self.inner:bytes() or 0 end
function Custom:position() return self.inner and self.inner:position() or 0 end
function Custom:batch() return self.inner and self.inner:batch() or self.sizes.batch or 1 end
function Custom:close() if self.inner then self.inner:close() end end
custom_meta.__close = Custom.close

function custom_meta.__tostring(s)
  return ("state after %d tokens, %d bytes"):format(s:position(), s:bytes())
end

-- ---- opening and loading ----------------------------------------------------------------

--- The engine's options for a kernel of its own: name and options, and the projection.
local function engine_options(given, head_dim, heads, where)
  if given == "exact" or (type(given) == "table" and not kernels.is_kernel(given) and
      given.name == "exact") then
    return { kernel = { name = "exact" } }
  end
  local chosen = kernels.as_kernel(given, where)
  if not head_dim then util.fail("%s: head_dim is needed, here or in the kernel", where) end
  local projection = chosen:projection(head_dim, heads)
  local config = util.copy(kernels.plain(chosen))
  config.head_dim = head_dim
  if projection then config.features, config.project = projection:size(-2), true end
  return { kernel = config, projection = projection }
end

local function check_decay(decay, where)
  if decay ~= nil and core.kind(decay) ~= "tensor" then
    util.fail("%s: decay must be a tensor (heads), got %s", where, core.kind(decay))
  end
end

--- A streaming state: state:prefill(q, k, v), state:step(q1, k1, v1), fork, reorder, merge, save,
--- bytes. Options kernel, batch, heads (of keys and values), head_dim, value_dim, decay (heads).
function attention.state(options)
  local where = "attention.state"
  options = util.check_options(options, { "kernel", "batch", "heads", "head_dim", "value_dim",
    "decay" }, where)
  check_decay(options.decay, where)
  local given = options.kernel or "softmax"
  if kernels.is_custom(given) then
    local sizes = util.copy(options)
    sizes.kernel = nil
    return new_custom(given, sizes)
  end
  local head_dim = options.head_dim or (kernels.is_kernel(given) and given.options.head_dim) or
    (type(given) == "table" and not kernels.is_kernel(given) and given.head_dim) or nil
  local heads = options.heads or 1
  local o = engine_options(given, head_dim, heads, where)
  if not head_dim then util.fail("%s: head_dim is needed", where) end
  o.batch, o.heads, o.head_dim = options.batch or 1, heads, head_dim
  o.value_dim, o.decay = options.value_dim or head_dim, options.decay
  return core.attention_state(o)
end

--- A custom kernel's state from the engine's state that was in the file, held against it.
local function load_custom(path, state, info, kernel, decay)
  if info.kernel.name ~= "given" then
    return nil, ("%s: the state is of a %s kernel, not of this custom one"):format(path,
      info.kernel.name), "PF_EFORMAT"
  end
  local loaded = new_custom(kernel, { decay = decay, heads = info.heads,
    head_dim = info.kernel.width, value_dim = info.value_dim, batch = info.batch }, state)
  local like, why = core.check_state(state, given_options(loaded, info.heads, info.kernel.width,
    info.head_dim, info.value_dim))
  if not like then return nil, ("%s: %s"):format(path, why), "PF_EFORMAT" end
  return loaded
end

--- The state that state:save(path) wrote; it goes on with the same bits. A kernel that is given
--- must be the state's own, and a custom one must be given. nil, message, code.
function attention.load_state(path, options)
  local where = "attention.load_state"
  options = util.check_options(options, { "kernel", "decay" }, where)
  check_decay(options.decay, where)
  local state, message, code = core.load_state(path)
  if not state then return nil, message, code end
  local info, given = core.state_info(state), options.kernel
  if kernels.is_custom(given) then return load_custom(path, state, info, given, options.decay) end
  if info.kernel.name == "given" then
    return nil, ("%s: the state is of a custom kernel: give it, load_state(path, {kernel = ...})")
      :format(path), "PF_EFORMAT"
  end
  if given == nil and options.decay == nil then return state end
  local o = engine_options(given or info.kernel, info.head_dim, info.heads, where)
  o.decay = options.decay
  local like, why = core.check_state(state, o)
  if not like then return nil, ("%s: %s"):format(path, why), "PF_EFORMAT" end
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

local function copy_entry(value, rows, batch, name)
  local kind = core.kind(value)
  if kind == "state" or getmetatable(value) == custom_meta then
    local fork = value:fork()
    return rows and fork:reorder(rows) or fork
  end
  if kind == "tensor" then
    if not rows or value:rank() == 0 then return value:detach() end
    if value:size(1) ~= batch then
      util.fail("reorder: '%s' in a Lua layer's state is %s, but its first dimension must be " ..
        "the batch, %d", name, tostring(value:shape()), batch)
    end
    return take(value, rows)
  end
  if kind == "table" then return copy(value, rows, batch, name) end
  return value
end

--- A Lua layer's state with all it holds: tensors (batch first), states, tables of such.
function copy(state, rows, batch, name)
  local to = setmetatable({}, getmetatable(state))
  for key, value in pairs(state) do
    to[key] = copy_entry(value, rows, batch, (name and name .. "." or "") .. tostring(key))
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
    elseif getmetatable(value) == custom_meta then
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
  copy = function(state, rows, batch) return copy(state, rows, batch) end,
  save = function(state)
    local tensors = {}
    local data = flatten(state, "", tensors)
    return tensors, { entries = data }
  end,
  load = function(tensors, data) return unflatten(data.entries or {}, "", tensors) end,
}

