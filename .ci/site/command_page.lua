-- command_page.lua - a command as a text to read, from what its parser knows (kit/commands.lua).
local commands = require "kit.commands"

local function cell(text) return (text:gsub("|", "\\|"):gsub("%s+", " "):gsub("<", "&lt;")) end

--- A help text as a sentence; one that begins with the commands it is for ("train, eval: ...") as
-- it is.
local function sentence(text)
  if not text:find "^%l+:" and not text:find "^%l+, %l+:" then
    text = text:gsub("^%l", string.upper)
  end
  return text:find "[%.!?]$" and text or text .. "."
end

local function option_name(option)
  local text = (option.short and option.short .. ", " or "") .. "--" .. option.name
  if option.switch then return text .. " [on|off]" end
  return text .. (option.argument and " " .. option.argument:upper() or "")
end

--- Options in the order of their groups; those without one come last, as --help has them.
local function grouped(options)
  local order, by = {}, {}
  for _, option in ipairs(options) do
    local group = option.group or "More"
    if not by[group] then
      by[group] = {}
      if group ~= "More" then order[#order + 1] = group end
    end
    table.insert(by[group], option)
  end
  if by.More then order[#order + 1] = "More" end
  return order, by
end

--- The page of one command of kit.commands' list, in Markdown.
return function(command)
  local parts = { "# performer " .. command.name, command.summary or sentence(command.purpose) }
  local usage = { "performer", command.name }
  for _, argument in ipairs(command.arguments) do
    local text = argument.name:upper() .. (argument.many and " ..." or "")
    usage[#usage + 1] = argument.optional and "[" .. text .. "]" or text
  end
  usage[#usage + 1] = "[options]"
  parts[#parts + 1] = "```sh\n" .. table.concat(usage, " ") .. "\n```"
  for _, argument in ipairs(command.arguments) do
    parts[#parts + 1] = ("* `%s`: %s"):format(argument.name:upper(),
      sentence(argument.help or argument.name))
  end
  parts[#parts + 1] = "## Examples\n\n```sh\n" .. table.concat(command.examples, "\n") .. "\n```"
  local order, by = grouped(command.options)
  for _, group in ipairs(order) do
    local rows = { "| option | does |", "| --- | --- |" }
    for _, option in ipairs(by[group]) do
      rows[#rows + 1] = ("| `%s` | %s |"):format(cell(option_name(option)),
        cell(sentence(option.help)))
    end
    parts[#parts + 1] = ("## %s\n\n%s"):format(group, table.concat(rows, "\n"))
  end
  local rows = { "| code | says |", "| --- | --- |" }
  for _, exit in ipairs(commands.exits) do
    rows[#rows + 1] = ("| %s | %s |"):format(exit[1], exit[2])
  end
  parts[#parts + 1] = "## Exit codes\n\n" .. table.concat(rows, "\n")
  return table.concat(parts, "\n\n") .. "\n"
end
