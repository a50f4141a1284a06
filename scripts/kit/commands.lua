-- commands.lua - what the commands are, as their parsers know them: the one source of man pages,
-- shell completion and the site's reference. A script is run up to where it has its parser.
local lfs = require "lfs"
local cli = require "kit.cli"

local commands = {}

--- What the program takes in the place of a command (main.c): { letter, argument, what it does }.
commands.starts = {
  { "e", "code", "Runs Lua, in which pf and nn are at hand; may be given several times." },
  { "i", nil, "A prompt, behind the script and every -e." },
}

--- What their exit codes say.
commands.exits = {
  { "0", "It did what was asked." }, { "1", "It failed." }, { "2", "It was asked wrongly." },
  { "3", "A limit was reached (run)." }, { "130", "It was interrupted." },
  { "141", "Nobody reads what it writes." },
}

--- Runs a command's script up to where it has its parser.
local function collect(folder, name)
  local seen
  local parse = cli.parse
  cli.parse = function(parser, rows)
    seen = { parser = parser, rows = rows }
    error(seen, 0)
  end
  rawset(_G, "arg", {})
  pcall(assert(loadfile(("%s/%s.lua"):format(folder, name))))
  cli.parse = parse
  return assert(seen, name .. ": it has no parser")
end

--- What the script's first line says of it.
local function purpose(folder, name)
  local file = assert(io.open(("%s/%s.lua"):format(folder, name)))
  local line = file:read "l":gsub("^%-+ performer %S+ %- ", "")
  file:close()
  return line:gsub("[,.;].*", "")
end

--- { name, argument, words: what it may be, help, flag, many } of an option.
local function option_of(option, rows)
  local known = { name = option._aliases[#option._aliases]:sub(3), help = option._description,
                  short = #option._aliases > 1 and option._aliases[1] or nil }
  local row = rows[known.name]
  known.flag = not row or row[2] == "flag"
  known.switch = row and row[2] == "switch"
  known.many = row and row.many
  known.group = row and row.group
  if row then known.words = type(row[2]) == "table" and row[2] or row.names end
  if known.switch then known.words = { "on", "off" } end
  if not known.flag then known.argument = option._argname:sub(2, -2) end
  return known
end

--- What is known of one command.
local function command_of(folder, name)
  local found = collect(folder, name)
  local rows, options, arguments = {}, {}, {}
  for _, row in ipairs(found.rows) do rows[row[1]] = row end
  for i, option in ipairs(found.parser._options) do options[i] = option_of(option, rows) end
  for i, argument in ipairs(found.parser._arguments) do
    arguments[i] = { name = argument._name, help = argument._description,
                     optional = argument._minargs == 0, many = argument._maxargs > 1 }
  end
  local examples = {}
  for line in found.parser._epilog:gmatch "\n  ([^\n]+)" do examples[#examples + 1] = line end
  return { name = name, purpose = purpose(folder, name), summary = found.parser._description,
           options = options, arguments = arguments, examples = examples }
end

--- Every command whose script is in `folder`, by name: a list of { name, purpose, summary, options,
-- arguments, examples }; an option is { name, short, help, argument or flag, words: what it may be,
-- switch, many, group }, an argument { name, help, optional, many }.
function commands.list(folder)
  local names, list = {}, {}
  for file in lfs.dir(folder) do
    names[#names + 1] = file:match "^(%w[%w_-]*)%.lua$"
  end
  table.sort(names)
  for i, name in ipairs(names) do list[i] = command_of(folder, name) end
  return list
end

return commands
