-- support/layers.lua - one of every layer of the table, of every kind of attention and of every
-- map, made from what the tables say, so that a new row is among them without a word here.
-- `require "spec.support.layers"`.
local array = require "spec.support.array"
local pf = require "performer"

local layers = { B = 2, L = 9, D = 8, V = 11 }

-- What an option that a row requires is given, and numbers that differ from the defaults.
local REQUIRED = { vocab = layers.V, from = layers.D, to = layers.D, dim = layers.D, classes = 4,
                   types = 3, names = { "one", "two" } }
local OTHER = { kv_heads = 1, head_dim = 6, decay = 0.5, conv = 3, hidden = 12, dropout = 0.2,
                rotary_base = 100, layers = 1, heads = 1, length = 12,
                embedding_dim = 6, norm_eps = 0.1, types = 3, attention_dropout = 0.3 }

-- What a choice, or an option, can't be without, and options that are for whole rows: no streams.
local BESIDE = { global_weights = { attention = { name = "sliding", window = 3, global = 1 } },
                 head_act = { head = "transform" }, axial = { axes = { 3, 4 } },
                 axial_sinusoidal = { axes = { 2, 3, 2 } },
                 relative = { attention = { name = "sliding", window = 4 }, causal = true } }
local WHOLE = { global_weights = true }

--- The option of that name of a row of a table, or nil.
function layers.option(row, name)
  for _, option in ipairs(row.options or {}) do
    if option.name == name then return option end
  end
end

-- One output a position, as the walks have it; pool is the layer that has none.
local PER_POSITION = { classifier = { of = "token" }, regressor = { of = "token" } }
function layers.is_per_position(row) return row.type ~= "pool" end

--- Options that a row of pf.layers() is made with; more: in their place.
function layers.options(row, more)
  local o = {}
  for _, option in ipairs(row.options or {}) do
    if option.required then
      o[option.name] = assert(REQUIRED[option.name], "what is " .. option.name .. " to be?")
    end
  end
  if layers.option(row, "heads") then o.heads = 2 end
  local kind = more and more.attention
  if type(kind) == "table" then kind = kind.name end
  for _, known in ipairs(pf.kinds()) do
    if known.name == kind and not known.takes_kernel then kind = false end
  end
  if layers.option(row, "kernel") and kind ~= false then
    o.kernel = { name = "softmax", features = 8, seed = 3 }
  end
  for _, own in ipairs { PER_POSITION[row.type] or {}, more or {} } do
    for key, value in pairs(own) do
      if layers.option(row, key) then o[key] = value end
    end
  end
  return o
end

--- Numbers for what begins at 0 or 1, so that it counts.
local function stir(module)
  for name, t in pf.sorted(module:tensors()) do
    local plain = not name:find "projection" and not name:find "decay" and not name:find "tilt"
    if plain and t:dtype() == "f32" then t:copy_(t + pf.randn(t:shape()) * 0.2) end
  end
  return module
end

local function block(more)
  local o = { dim = layers.D, heads = 2, conv = 3, kernel = { features = 8, seed = 3 } }
  for key, value in pairs(more) do o[key] = value end
  return pf.nn.block(o)
end

-- Children of rows that take some: a block, unless it says otherwise here.
local CHILDREN = {
  chain = function(more) return { block(more) } end,
  encoder_decoder = function(more)
    local encoder = pf.nn.performer { vocab = layers.V, dim = layers.D, layers = 1, heads = 2 }
    return { encoder, block { causal = more.causal, cross = true } }
  end,
}
function CHILDREN.branches(more)
  return { pf.nn.attention { dim = layers.D, heads = 2, causal = more.causal,
                             kernel = { features = 8, seed = 3 } }, pf.nn.mlp(layers.D) }
end
function CHILDREN.tasks(more)
  local function head() return pf.nn.linear { from = layers.D, to = 3 } end
  return { block(more), head(), head() }
end
for _, name in ipairs { "residual", "reversible", "classifier", "regressor" } do
  CHILDREN[name] = CHILDREN.chain
end

--- The layer of a row, with children where it takes some.
function layers.make(row, more)
  pf.seed(5)
  local o = layers.options(row, more)
  local own = {}
  for _, key in ipairs { "causal", "attention" } do own[key] = (more or {})[key] end
  for i, child in ipairs(CHILDREN[row.type] and CHILDREN[row.type](own) or {}) do o[i] = child end
  return stir(pf.nn[row.type](o))
end

--- A graph of L nodes in which each sees itself and up to two before and after it, so that what
--- is left of it where positions are cut off, or hidden, is the graph of the others.
local function band(L)
  local rows = {}
  for to = 0, L - 1 do
    for from = math.max(0, to - 2), math.min(L - 1, to + 2) do
      rows[#rows + 1] = { to, from, #rows }
    end
  end
  return array.new({ #rows, 3 }, function(i) return rows[(i - 1) // 3 + 1][(i - 1) % 3 + 1] end,
    "i32")
end

-- What layers read beside x, for n sequences of L positions.
local INPUTS = {
  memory = function(from, n) return from:normals { n, 5, layers.D } end,
  source = function(from, n) return from:whole({ n, 5 }, 0, layers.V - 1) end,
  edges = function(_, _, L) return band(L) end,
}

--- The inputs of a layer that it needs, beside what `to` has already.
function layers.inputs(layer, n, to)
  to = to or {}
  local has = {}
  for _, input in ipairs(layer:inputs()) do has[input.name] = input end
  for name, make in pairs(INPUTS) do
    local wanted = has[name] and (has[name].required or name == "source")
    if wanted and to[name] == nil then
      local L = to.input and to.input:size(2) or layers.L
      to[name] = array.tensor(make(array.random(7), n, L))
    end
  end
  return to
end

--- The layer on a batch, or on x alone, and with a pass; and an empty state of it.
function layers.call(layer, batch, pass)
  if type(batch) ~= "table" then batch = { input = batch } end
  return layer(layers.inputs(layer, batch.input:size(1), batch), pass)
end
function layers.state(layer, n) return layer:state(layers.inputs(layer, n, { batch = n })) end

--- Does a layer take token ids?
function layers.takes_ids(layer)
  return not pcall(layers.call, layer, pf.zeros(1, 2, layers.D))
end

--- (B, L) ids or (B, L, D) rows, as the layer takes them, with other ones where hidden is 0.
function layers.input(layer, seed, hidden, other)
  local B, L, D, V = layers.B, layers.L, layers.D, layers.V
  local random, away = array.random(seed), array.random(other or seed)
  local ids = layers.takes_ids(layer)
  local shape = ids and { B, L } or { B, L, D }
  local function draw(from) return ids and from:whole(shape, 0, V - 1) or from:normals(shape) end
  local x, y = draw(random), draw(away)
  local width = ids and 1 or D
  for i = 1, #x do
    if hidden and hidden[(i - 1) // width + 1] == 0 then x[i] = y[i] end
  end
  return array.tensor(x)
end

--- Does a row's layer stream? Edges are of a whole sequence.
function layers.streams(row) return row.type ~= "graph_attention" end

--- {name, options, kind}: every kind of attention, each with every map where it takes a kernel.
function layers.attentions()
  local list = {}
  for _, kind in ipairs(pf.kinds()) do
    for _, map in ipairs(kind.takes_kernel and pf.kernels().maps or { {} }) do
      local kernel = map.name and { name = map.name, seed = 3, features = map.softmax and 8 or 0 }
      list[#list + 1] = { name = kind.name .. " " .. (map.name or ""),
                          options = { attention = kind.name, kernel = kernel }, kind = kind }
    end
  end
  return list
end

--- {name, options, whole}: a row's options, one after the other, as they are not by default: the
--- other way round, every choice, another number where one is known. whole: without streams.
function layers.variants(row)
  local list = {}
  local function add(name, value)
    local options = { [name] = value }
    for key, beside in pairs(BESIDE[value] or BESIDE[name] or {}) do options[key] = beside end
    list[#list + 1] = { name = ("%s = %s"):format(name, tostring(value)), options = options,
                        whole = WHOLE[name] }
  end
  for _, option in ipairs(row.options or {}) do
    if option.kind == "bool" and option.name ~= "causal" then
      add(option.name, option.default ~= "true")
    elseif option.choices and option.name ~= "attention" then
      for choice in option.choices:gmatch "[%w_]+" do add(option.name, choice) end
    elseif (option.kind == "int" or option.kind == "number") and not option.required then
      if OTHER[option.name] then add(option.name, OTHER[option.name]) end
    end
  end
  return list
end

--- {name, kernel, full}: softmax kernels, each with another option than by default; full: of
--- attention that is not causal alone.
function layers.kernels()
  local list = {}
  for _, v in ipairs(layers.variants(pf.kernels())) do
    local key, value = next(v.options)
    if key ~= "name" and key ~= "head_dim" and value ~= "given" then
      list[#list + 1] = { name = "kernel " .. v.name, full = value == "reference",
        kernel = { name = "softmax", features = 8, seed = 3, [key] = value } }
    end
  end
  return list
end

return layers
