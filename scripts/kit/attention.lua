--- attention.lua - what `--attention NAME` comes to, and what a model's attention says of itself.
--
-- NAME is a kind of attention, "auto" (the engine chooses the kind), or a feature map. Which kinds
-- and maps there are is the engine's word: nothing here or in the commands asks for one by name.
local pf = require "performer"
local advise = require "performer.advise"
local cli = require "kit.cli"

local attention = {}

local KINDS = {} -- by name
for _, kind in ipairs(pf.kinds()) do KINDS[kind.name] = kind end

--- The kind that has a kernel: a feature map's name means this one.
local function with_kernel()
  for _, kind in ipairs(pf.kinds()) do
    if kind.takes_kernel then return kind.name end
  end
end

attention.LINEAR = with_kernel()
attention.MAP = "softmax" -- of a kernel that is not named
-- The kind whose time is the limit of speed, for the ratios of `bench`.
attention.BASE = "identity"

--- The names of the kinds, in order, but for those that read edges: a command has none to give.
function attention.kind_names()
  local names = {}
  for _, kind in ipairs(pf.kinds()) do
    if not kind.edges then names[#names + 1] = kind.name end
  end
  return names
end

--- The names of the feature maps, in order.
function attention.map_names()
  local names = {}
  for i, map in ipairs(pf.kernels().maps) do names[i] = map.name end
  return names
end

--- Everything that --attention takes, each name once. A kind goes before a map of its name.
--- chosen: by the user alone, without auto.
function attention.names(chosen)
  local names = attention.kind_names()
  if not chosen then names[#names + 1] = "auto" end
  for _, name in ipairs(attention.map_names()) do
    if not KINDS[name] then names[#names + 1] = name end
  end
  return names
end

--- Refuses a name that --OPTION does not take; kinds: it takes kinds alone.
function attention.check_name(option, name, kinds)
  if KINDS[name] and KINDS[name].edges then
    cli.fail(2, ("--%s: %s attention goes along the edges of a graph, and rows of data have none; "
      .. "it is for scripts"):format(option, name))
  end
  cli.check_name(option, name, kinds and attention.kind_names() or attention.names())
end

--- The options of a model or block with attention NAME: { attention, kernel = { name } }.
function attention.model_options(name)
  if name == "auto" or KINDS[name] then return { attention = name, kernel = {} } end
  return { kernel = { name = name } }
end

--- The kind that a model's options say; nil for a model that is none of the engine's own.
function attention.kind_of(options)
  local kernel = options.kernel and options.kernel.name
  if KINDS[options.attention] then return options.attention end
  -- Files of 0.1.0 may name the kind where the map stands.
  return options.attention and (KINDS[kernel] and kernel or attention.LINEAR)
end

--- Of one layer in a word: its kind, or the map of its kernel.
local function label_of(options)
  local kind = attention.kind_of(options)
  if kind ~= attention.LINEAR then return kind end
  return options.kernel and options.kernel.name or attention.MAP
end

--- The options of layer i: where a model has lists of attentions or kernels, their entry.
local function layer_options(options, i)
  local kinds, kernels = options.attentions, options.kernels
  local kind = kinds and kinds[(i - 1) % #kinds + 1] or options.attention
  return { attention = type(kind) == "table" and kind.name or kind,
           kernel = kernels and kernels[(i - 1) % #kernels + 1] or options.kernel }
end

--- A model's attention in a word, of several the different ones: "exact, relu"; nil of a model
--- that is none of the engine's own.
function attention.label(options)
  local words, met = {}, {}
  local function add(word)
    if word and not met[word] then words[#words + 1], met[word] = word, true end
  end
  if (options.local_heads or 0) > 0 then add "sliding" end
  for _, group in ipairs(options.head_groups or {}) do
    add(label_of { attention = group.attention or options.attention, kernel = group.kernel })
  end
  if options.head_groups then return table.concat(words, ", ") end
  for i = 1, math.max(#(options.attentions or {}), 1) * math.max(#(options.kernels or {}), 1) do
    add(label_of(layer_options(options, i)))
  end
  return words[1] and table.concat(words, ", ")
end

--- The options of a kind's own that act on what a training step leaves: { name = true }.
function attention.of_layers(kind)
  local names = {}
  for _, option in ipairs(KINDS[kind].options) do
    if option.needs == "training" then names[option.name] = true end
  end
  return names
end

--- Does this kind weigh by a kernel's features?
function attention.takes_kernel(kind) return KINDS[kind].takes_kernel end

--- Can a row be walked in parts (model:backward_sliced) with this kind?
function attention.hands_on(kind) return KINDS[kind].trains_in_parts end

-- ---- the error of softmax features ----

--- What model:attention_report() says, a table a layer: { layer, map, features, and a number a
-- head of query, key, sum, predicted_rel_mse }; nil where there is nothing to say.
function attention.record(model)
  local layers, last = {}, nil
  for _, line in ipairs(model:attention_report()) do
    if not last or last.layer ~= line.layer then
      last = { layer = line.layer, map = line.map, features = line.features }
      layers[#layers + 1] = last
    end
    for _, name in ipairs { "query", "key", "sum", "predicted_rel_mse" } do
      last[name] = last[name] or {}
      last[name][line.head] = tonumber(("%.4g"):format(line[name]))
    end
  end
  return #layers > 0 and layers or nil
end

--- One sentence when the error that theory tells for the softmax features of a layer is
-- hopeless, and what helps; nil when all is well.
function attention.warning(model)
  local found = advise.hopeless(model:attention_report())
  local worst = found[1]
  if not worst then return nil end
  local more = #found > 1 and (" and %d more"):format(#found - 1) or ""
  return ("the softmax estimate of %s%s is hopeless: |x+y|^2 is about %.3g, where the mean "
    .. "square error of a weight is %.2g times its square (%s, %d features); what helps: "
    .. "normed queries and keys (qk_norm), a smaller scale, softmax_hyp or softmax_plus "
    .. "features, or relu, which estimates nothing"):format(worst.layer, more, worst.sum,
    worst.median_rel_mse, worst.map, worst.features)
end

return attention
