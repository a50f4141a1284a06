--- lists.lua - options of a model that are lists, as the command line says them: words by commas.
-- A name of an attention means there what it means in --attention: a kind, or the feature map of a
-- kernel, which has the options that the model's has.
local attention = require "kit.attention"
local cli = require "kit.cli"

local lists = {}

local function words_of(text)
  local words = {}
  for word in (text .. ","):gmatch "([^,]*)," do words[#words + 1] = word end
  return words
end

--- "64,64,3" -> { 64, 64, 3 }; what sizes go together is the engine's to say.
local function axes(text)
  local sizes = {}
  for i, word in ipairs(words_of(text)) do
    sizes[i] = word:match "^%d+$" and math.tointeger(tonumber(word))
    if not sizes[i] then
      cli.fail(2, ("--axes: '%s' is no list of sizes, as 64,64,3"):format(text))
    end
  end
  return sizes
end

--- { attention, attention_options, kernel } of a name; own(kind): the options of that kind that the
-- command line has.
local function entry(option, name, kernel, own)
  attention.check_name(option, name)
  local chosen, copy = attention.model_options(name), {}
  for key, value in pairs(kernel or {}) do copy[key] = value end
  local kind = chosen.attention or attention.LINEAR
  copy.name = chosen.kernel.name or attention.MAP
  return { attention = kind, attention_options = own(kind),
           kernel = kind ~= "auto" and attention.takes_kernel(kind) and copy or nil }
end

--- The lists attentions and kernels. A layer without a kernel has one in its place that it does not
-- read.
local function attentions(options, text, own)
  local kinds, kernels, maps = {}, {}, false
  for i, name in ipairs(words_of(text)) do
    local one = entry("attentions", name, options.kernel, own)
    kinds[i], kernels[i] = one.attention, one.kernel or { name = attention.MAP }
    maps = maps or one.kernel ~= nil
    if one.attention_options then
      kinds[i] = { name = one.attention }
      for key, value in pairs(one.attention_options) do kinds[i][key] = value end
    end
  end
  options.attentions, options.kernels = kinds, maps and kernels or nil
end

local function head_groups(options, text, own)
  local groups = {}
  for i, word in ipairs(words_of(text)) do
    local heads, name = word:match "^(%d+):(.+)$"
    if not heads then
      cli.fail(2, ("--head-groups: '%s' is no list of groups, as 2:exact,6:relu"):format(text))
    end
    groups[i] = entry("head-groups", name, options.kernel, own)
    groups[i].heads = math.tointeger(tonumber(heads))
  end
  options.head_groups = groups
end

--- Makes of a model's options those that hold texts of the command line lists. own(kind): what it
-- says of a kind's own options.
function lists.settle(options, own)
  local kinds, groups = options.attentions, options.head_groups
  if type(options.axes) == "string" then options.axes = axes(options.axes) end
  if type(kinds) == "string" then attentions(options, kinds, own) end
  if type(groups) == "string" then head_groups(options, groups, own) end
  if type(kinds) == "string" or type(groups) == "string" then options.attention_options = nil end
  return options
end

--- The kinds of attention that a model's options name.
function lists.kinds(options)
  local kinds = {}
  for _, kind in ipairs(options.attentions or {}) do
    kinds[#kinds + 1] = type(kind) == "table" and kind.name or kind
  end
  for _, group in ipairs(options.head_groups or {}) do
    kinds[#kinds + 1] = group.attention or attention.kind_of(options)
  end
  if #kinds == 0 then kinds[1] = attention.kind_of(options) end
  return kinds
end

--- Does some attention of a model read a kernel?
function lists.reads_kernel(options)
  if (options.local_heads or 0) > 0 and options.local_heads == options.heads then return false end
  for _, kind in ipairs(lists.kinds(options)) do
    if kind == "auto" or attention.takes_kernel(kind) then return true end
  end
  if options.attentions or options.head_groups then return false end
  return not attention.kind_of(options) or options.attention == "auto"
end

return lists
