--- attention_maps.lua - where the heads of a model look in one sequence: the weights of every layer
-- and head, of models whose blocks are plain enough to be followed from here.
--
-- What a softmax kernel estimates are the exact weights of its queries and keys, and those are
-- given; of other maps (relu, elu ...) the weights are their own.
local pf = require "performer"
local attention = require "kit.attention"

local attention_maps = {}

local function children_of(module, type)
  local found = {}
  for _, child in ipairs(module:children()) do
    if child:type() == type then found[#found + 1] = child end
  end
  return found
end

local TELLS = {} -- kinds whose weights can be told
for _, kind in ipairs(pf.kinds()) do TELLS[kind.name] = kind.tells_weights end

--- Why a model's maps can't be had, in a few words; nil: they can.
local function obstacle(model)
  if model:type() ~= "performer" then return "the model is no plain performer" end
  local o = model:options()
  if (o.residual or "pre") ~= "pre" then return "its blocks are not of the pre-norm form" end
  for _, name in ipairs { "reversible", "token_shift", "parallel", "types" } do
    local value = o[name]
    if value and value ~= 0 then return "its blocks have " .. name end
  end
  if #children_of(model, "chain") ~= 1 then return "its blocks are not in one chain" end
  for _, child in ipairs(model:children()) do
    if child:type() == "types" then return "it reads types of tokens" end
  end
end

--- What the first block reads: embedding, n-gram memory, positions, a norm, as the model has them.
local function into_blocks(model, ids)
  local h
  for _, child in ipairs(model:children()) do
    if child:type() == "chain" then return h end
    if child:type() == "ngrams" then h = h + child(ids) else h = child(h or ids) end
  end
end

--- Why a layer's weights can't be told; nil: they can.
local function layer_obstacle(o)
  local kind = attention.kind_of(o)
  if not TELLS[kind] then return ("weights of %s attention are not told"):format(kind) end
  local kernel = o.kernel and o.kernel.name
  if kernel and not pf.kernel[kernel] then return "its kernel is a script's" end
  if (o.kv_heads or 0) > 0 and o.kv_heads ~= o.heads then return "its heads share keys" end
  if (o.rotary_pairs or "halves") ~= "halves" then return "its positions turn other pairs" end
  for _, name in ipairs { "relative", "bias_table", "qkv_bias", "v_norm" } do
    local value = o[name]
    if value and value ~= 0 then return "its attention has " .. name end
  end
end

--- What an attention layer makes of rows x: { q, k, v (each (1, H, L, d)), decay (H) or nil }.
local function sides_of(layer, o, x)
  local heads = o.heads
  local d = o.head_dim > 0 and o.head_dim or o.dim // heads
  local qkv, tensors = layer:children()[1](x), layer:tensors()
  local function side(n)
    local y = qkv:slice(3, 1 + n * heads * d, (n + 1) * heads * d)
    y = y:reshape(1, -1, heads, d):permute(1, 3, 2, 4)
    local norm = tensors[n == 0 and "q_norm" or "k_norm"]
    if n == 2 then return y end
    if norm then y = y:rmsnorm(norm, { eps = 1e-6 }) end
    return o.rotary and y:rotary { halves = true, base = o.rotary_base } or y
  end
  return { q = side(0), k = side(1), v = side(2), decay = tensors.decay }
end

--- Heads that forget: each weight falls with its distance, and a row sums to 1 again.
local function forget(weights, decay)
  if not decay then return weights end
  local H, L = weights:size(1), weights:size(2)
  local place = pf.zeros(L):copy_(pf.arange(L, { dtype = "i32" }))
  local apart = (place:reshape(L, 1) - place):abs():reshape(1, L, L)
  local kept = weights * (apart * decay:detach():reshape(H, 1, 1) * -1):exp()
  return kept / kept:sum(-1):reshape(H, L, 1)
end

--- What weighs, as pf.attention.weights takes it: the exact softmax where a map estimates it.
local function weigher(o)
  local kernel = o.kernel or {}
  local map = attention.kind_of(o) == attention.LINEAR and (kernel.name or attention.MAP)
  for _, known in ipairs(pf.kernels().maps) do
    if known.name == map and not known.softmax then
      return { kernel = { name = map, scale = kernel.scale, eps = kernel.eps } }, map
    end
  end
  return { attention = "exact" }, map or "exact"
end

--- The weights of a block's attention for what it reads, (H, L, L); what weighs; and the layer's
-- sides, with its options and its input. nil, why not.
function attention_maps.of_block(block, x)
  local layers, convs = children_of(block, "attention"), children_of(block, "conv")
  if #layers ~= 1 then return nil, "it has no attention layer of one kind" end
  local o = layers[1]:options()
  local why = layer_obstacle(o)
  if why then return nil, why end
  x = block:children()[1](x)
  if convs[1] then x = convs[1](x) end
  local sides = sides_of(layers[1], o, x)
  sides.options, sides.input, sides.layer = o, x, layers[1]
  local options, map = weigher(o)
  options.causal, options.rows = o.causal, {}
  for i = 1, x:size(2) do options.rows[i] = i end
  return forget(pf.attention.weights(sides.q, sides.k, options)[1], sides.decay), map, sides
end

--- The error of a layer's estimate on these rows, as pf.attention.compare tells it; nil where its
-- kernel estimates nothing.
local function error_of(sides)
  local o = sides.options
  local kernel = o.kernel or {}
  local name = attention.kind_of(o) == attention.LINEAR and (kernel.name or attention.MAP)
  for _, map in ipairs(pf.kernels().maps) do
    if map.name == name and map.softmax and not map.tilted then
      local chosen = pf.kernel[name] { head_dim = sides.q:size(4), features = kernel.features,
                                       rows = kernel.rows ~= "given" and kernel.rows or nil,
                                       scale = kernel.scale, seed = 7 }
      return pf.attention.compare(chosen, { q = sides.q, k = sides.k, v = sides.v,
                                            causal = o.causal })
    end
  end
end

--- The maps of `ids` (i32, (L)): a list of { layer, map (what weighs), weights = {head, row,
-- column}, error (attention.compare's) }, and { layer, why } of layers that have none; nil, why,
-- where no layer has any.
function attention_maps.of(model, ids)
  local why = obstacle(model)
  if why then return nil, why end
  local list, found = {}, false
  local row = ids:reshape(1, ids:numel())
  for i, block in ipairs(children_of(model, "chain")[1]:children()) do
    local x = i == 1 and into_blocks(model, row) or model:hidden(row, nil, i - 1)
    local weights, map, sides = attention_maps.of_block(block, x)
    list[i] = { layer = i, map = weights and map, weights = weights and weights:totable(),
                why = not weights and map or nil, error = sides and error_of(sides) }
    found = found or weights ~= nil
  end
  if not found then return nil, list[1] and list[1].why or "it has no blocks" end
  return list
end

return attention_maps
