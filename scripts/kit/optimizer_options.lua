--- optimizer_options.lua - `--optimizer NAME` and its options on the command line, made from the
-- engine's table of optimizers: one that is added there can be given here without a line more.
local cli = require "kit.cli"
local pf = require "performer"

local optimizer_options = {}

-- What a run has where none is named; the presets' learning rate and decay are meant for it.
optimizer_options.DEFAULT = "adamw"

-- Words of the command line, with rows of their own: every optimizer has these.
local SHARED = { lr = true, decay = true }

-- What an option's kind is to cli.lua; a tree has no word, see optimizer_options.group.
local KINDS = { int = "whole", number = "signed", bool = "switch", string = "name" }

local TABLE = pf.optimizers()

--- The names of the optimizers, in the engine's order.
function optimizer_options.names()
  local names = {}
  for i, entry in ipairs(TABLE) do names[i] = entry.name end
  return names
end

local function shown_default(option)
  if option.kind ~= "bool" then return option.default end
  return option.default == "true" and "on" or "off"
end

--- The options that any optimizer has, in order: { name, kind, doc, defaults = { "adamw 0.9" ... },
-- default = "0" where all have it, and that one }.
local function all_options()
  local list, found = {}, {}
  for _, entry in ipairs(TABLE) do
    for _, option in ipairs(entry.options) do
      local known, default = found[option.name], shown_default(option)
      if not known then
        known = { name = option.name, kind = KINDS[option.kind], doc = option.doc, defaults = {},
                  default = default, choices = option.choices }
        found[option.name], list[#list + 1] = known, known
      end
      if known.default ~= default then known.default = nil end
      table.insert(known.defaults, ("%s %s"):format(entry.name, default))
    end
  end
  for _, known in ipairs(list) do
    if #known.defaults < #TABLE then known.default = nil end
  end
  return list
end

--- Rows for cli.add, whose `path` is the option's name. A word that is `taken` gets "optimizer-"
-- before it.
function optimizer_options.rows(taken)
  local rows = {}
  for _, option in ipairs(all_options()) do
    if option.kind and not SHARED[option.name] then
      local word = option.name:gsub("_", "-")
      if taken[word] then word = "optimizer-" .. word end
      rows[#rows + 1] = { word, option.kind, nil, option.doc,
                          option.default or table.concat(option.defaults, ", "),
                          group = "Training", path = option.name,
                          names = cli.split(option.choices) }
    end
  end
  return rows
end

local function option_of(name, option_name)
  for _, entry in ipairs(TABLE) do
    for _, option in ipairs(entry.name == name and entry.options or {}) do
      if option.name == option_name then return option end
    end
  end
end

--- The default of an optimizer's option, a number, a boolean or a text; nil where it has no such
-- option.
function optimizer_options.default(name, option_name)
  local option = option_of(name, option_name)
  if not option then return nil end
  if option.kind == "bool" then return option.default == "true" end
  return tonumber(option.default) or option.default
end

--- Ends the command over an option that was given and that the optimizer `name` does not have.
function optimizer_options.check(rows, given, name)
  for _, row in ipairs(rows) do
    if given[cli.key(row)] ~= nil and not option_of(name, row.path) then
      local owners = {}
      for _, entry in ipairs(TABLE) do
        if option_of(entry.name, row.path) then owners[#owners + 1] = entry.name end
      end
      cli.fail(2, ("train: --%s is for --optimizer %s; %s has no such option"):format(row[1],
        table.concat(owners, " or "), name))
    end
  end
end

--- Is this a complaint of an optimizer's, and not of a model's? Both have options of one name.
function optimizer_options.is_of(message)
  local name = message:match "%f[%w](%w+): '"
  for _, entry in ipairs(TABLE) do
    if entry.name == name then return true end
  end
  return false
end

--- A message of the engine's with the words of the command line for an option's name.
function optimizer_options.typed(message, rows)
  for name in pairs(SHARED) do message = message:gsub("'" .. name .. "'", "--" .. name) end
  for _, row in ipairs(rows) do message = message:gsub("'" .. row.path .. "'", "--" .. row[1]) end
  return message
end

--- The options of pf.optim.NAME from parsed words, of which `rows` tells the optimizer's own.
function optimizer_options.collect(words, rows)
  local options = { lr = words.lr, decay = words.decay }
  for _, row in ipairs(rows) do
    local value = words[cli.key(row)]
    if row[2] == "switch" then value = cli.switch(value) end
    options[row.path] = value
  end
  return options
end

--- A value of a group as the engine takes it.
local function value_of(text)
  if text == "on" or text == "off" then return text == "on" end
  return tonumber(text) or text
end

--- One entry of an optimizer's `groups` from "PATTERN:name=value,name=value"; nil, message. Names
-- and values are the engine's to check.
function optimizer_options.group(text)
  local match, rest = text:match "^([^:]+):(.+)$"
  if not match then
    return nil, ("'%s' is no group: write PATTERN:option=value,option=value"):format(text)
  end
  local group = { match = match }
  for part in rest:gmatch "[^,]+" do
    local name, value = part:match "^([%w_-]+)=(.+)$"
    if not name then return nil, ("'%s' in '%s' is no option=value"):format(part, text) end
    group[name:gsub("-", "_")] = value_of(value)
  end
  return group
end

return optimizer_options
