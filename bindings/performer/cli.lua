--- cli.lua - the manners that every command shares: options from one table, `--json`, exit
-- codes, one clear sentence for a mistake. Results go to stdout, everything else to stderr.
local argparse = require "argparse"

local cli = {}

--- Ends the command: code 1 failed, 2 misuse, 130 interrupted. `main.c` prints the message.
function cli.fail(code, message)
  error({ code = code, message = message }, 0)
end

--- The value of a call that returns nil, message, code for the outside world, or the end.
function cli.need(value, message)
  if value == nil then cli.fail(1, message) end
  return value
end

local function whole(text)
  local n = math.tointeger(tonumber(text))
  if not n or n < 0 then return nil, ("'%s' is not a whole number from 0"):format(text) end
  return n
end

local function positive(text)
  local n = whole(text)
  if not n or n < 1 then return nil, ("'%s' is not a whole number from 1"):format(text) end
  return n
end

local function number(text)
  local n = tonumber(text)
  if not n or n ~= n or n < 0 then return nil, ("'%s' is not a number from 0"):format(text) end
  return n
end

local converters = { whole = whole, positive = positive, number = number }

--- Adds options from a table of rows { name, kind, default, help } to an argparse parser.
-- kind: "whole", "positive", "number", "text", "flag", or a list of choices.
function cli.add(parser, rows)
  for _, row in ipairs(rows) do
    local name, kind, default, help = row[1], row[2], row[3], row[4]
    if kind == "flag" then
      parser:flag("--" .. name, help)
    else
      if default ~= nil then help = ("%s (default %s)"):format(help, tostring(default)) end
      local option = parser:option("--" .. name, help)
      if type(kind) == "table" then option:choices(kind) end
      if converters[kind] then option:convert(converters[kind]) end
      option:argname("<" .. (type(kind) == "table" and "name" or kind) .. ">")
    end
  end
  return parser
end

--- A parser for command `name`; `examples` are printed after the options.
function cli.parser(name, summary, examples)
  local parser = argparse("performer " .. name, summary)
  parser:epilog("Examples:\n  " .. table.concat(examples, "\n  "))
  parser:usage_max_width(90)
  return parser
end

--- Parses `arg`; a mistake is misuse (code 2) in one sentence. Defaults are filled in from
-- the rows, so that `given` tells what the user typed himself.
function cli.parse(parser, rows, words)
  local ok, result = parser:pparse(words)
  if not ok then
    cli.fail(2, (result:gsub("\n", " ")) .. " (see --help)")
  end
  local given = {}
  for key, value in pairs(result) do given[key] = value end
  for _, row in ipairs(rows) do
    local key = row[1]:gsub("-", "_")
    if result[key] == nil and row[2] ~= "flag" then result[key] = row[3] end
  end
  return result, given
end

return cli
