--- optimizer_options.lua - `--optimizer NAME` and its options on the command line, made from the
-- engine's table of optimizers: one that is added there can be given here without a line more.
local cli = require "kit.cli"
local pf = require "performer"

local optimizer_options = {}

-- What a run has where none is named; the presets' learning rate and decay are meant for it.
optimizer_options.DEFAULT = "adamw"

-- Words of the command line, with rows of their own: every optimizer has these.
local SHARED = { lr = true, decay = true }

local TABLE = pf.optimizers()

--- The names of the optimizers, in the engine's order.
function optimizer_options.names()
  local names = {}
  for i, entry in ipairs(TABLE) do names[i] = entry.name end
  return names
end

--- The options that any optimizer has, in order: { name, doc, defaults = { "adamw 0.9", ... } }.
local function all_options()
  local list, found = {}, {}
  for _, entry in ipairs(TABLE) do
    for _, option in ipairs(entry.options) do
      local known = found[option.name]
      if not known then
        known = { name = option.name, doc = option.doc, defaults = {} }
        found[option.name], list[#list + 1] = known, known
      end
      table.insert(known.defaults, ("%s %s"):format(entry.name, option.default))
    end
  end
  return list
end

--- Rows for cli.add, whose `path` is the option's name. A word that is `taken` gets "optimizer-"
-- before it.
function optimizer_options.rows(taken)
  local rows = {}
  for _, option in ipairs(all_options()) do
    if not SHARED[option.name] then
      local word = option.name:gsub("_", "-")
      if taken[word] then word = "optimizer-" .. word end
      rows[#rows + 1] = { word, "signed", nil, option.doc, table.concat(option.defaults, ", "),
                          group = "Training", path = option.name }
    end
  end
  return rows
end

--- The default of an optimizer's option; nil where it has none.
function optimizer_options.default(name, option_name)
  for _, entry in ipairs(TABLE) do
    for _, option in ipairs(entry.name == name and entry.options or {}) do
      if option.name == option_name then return tonumber(option.default) end
    end
  end
end

--- Ends the command over an option that was given and that the optimizer `name` does not have.
function optimizer_options.check(rows, given, name)
  for _, row in ipairs(rows) do
    if given[cli.key(row)] ~= nil and not optimizer_options.default(name, row.path) then
      local owners = {}
      for _, entry in ipairs(TABLE) do
        if optimizer_options.default(entry.name, row.path) then owners[#owners + 1] = entry.name end
      end
      cli.fail(2, ("train: --%s is for --optimizer %s; %s has no such option"):format(row[1],
        table.concat(owners, " or "), name))
    end
  end
end

--- A message of the engine's with the words of the command line for an option's name.
function optimizer_options.typed(message, rows)
  for _, row in ipairs(rows) do message = message:gsub("'" .. row.path .. "'", "--" .. row[1]) end
  return message
end

--- The options of pf.optim.NAME from parsed words, of which `rows` tells the optimizer's own.
function optimizer_options.collect(words, rows)
  local options = { lr = words.lr, decay = words.decay }
  for _, row in ipairs(rows) do options[row.path] = words[cli.key(row)] end
  return options
end

return optimizer_options
