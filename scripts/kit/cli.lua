--- cli.lua - the manners that every command shares: options from one table, `--json`, exit
-- codes, one clear sentence for a mistake. Results go to stdout, everything else to stderr.
local advice = require "kit.advice"
local argparse = require "argparse"
local cli_words = require "kit.cli_words"
local core = require "performer.core"
local ranks = require "kit.ranks"
local values = require "kit.values"

local cli = {}

core.careful() -- cli.write and cli.json_log see what comes of writing

-- ---- ends ----

--- Ends the command: code 1 failed, 2 misuse, 130 interrupted, 141 nobody reads what it writes.
-- `main.c` prints the message.
function cli.fail(code, message)
  error({ code = code, message = message }, 0)
end

--- `message` with what to do.
cli.advise = advice.advise

--- The value of a call that returns nil, message, code for the outside world, or the end.
function cli.need(value, message)
  if value == nil then cli.fail(1, cli.advise(message)) end
  return value
end

--- A message without the place in our own files that stands before it, and without our name,
-- which is put there anyway.
local function without_place(message)
  local place, rest = message:match "^([^\n]-%.lua):%d+: (.*)$"
  if place and (place:find "scripts/[%w_]+%.lua$" or place:find "performer/[%w_]+%.lua$" or
      place:find "kit/[%w_]+%.lua$") then
    message = rest
  end
  return (message:gsub("^performer: ", ""))
end

--- f(...), whose complaint ends the command with `code` in one sentence: for calls that check
-- what the user typed. The end of a command that f itself chose passes through; memory that does
-- not suffice is no misuse.
function cli.try(code, f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local message = results[2]
  if type(message) ~= "string" then error(message, 0) end
  cli.fail(advice.is_scarcity(message) and 1 or code, cli.advise(without_place(message)))
end

--- Lua's own functions: what they raise is a mistake of the script.
local own_functions = {}
for _, name in ipairs { "_G", "string", "table", "math", "io", "os", "coroutine", "utf8",
                        "debug", "package" } do
  for _, value in pairs(package.loaded[name]) do own_functions[value] = true end
end

--- What a script has thrown, as all ranks end by it: { code, message }, of which the message may be
-- empty, as that of pf.exit is.
local function thrown(problem)
  if type(problem) == "table" and (problem.code or problem.message) then return problem end
  local meta = getmetatable(problem)
  return { code = 1, message = meta and meta.__tostring and tostring(problem)
             or ("the script threw a %s that says nothing"):format(type(problem)) }
end

--- Runs the command. What the engine refuses (misuse, the byte budget, a cancelled call) is
-- one sentence; a mistake in a script is a traceback.
function cli.main(body)
  local function handler(problem)
    if type(problem) ~= "string" then return problem end
    if core.stopped() then return { code = 130, message = "interrupted" } end
    local raiser = debug.getinfo(2, "Sf")
    if raiser and raiser.what == "C" and not own_functions[raiser.func] then
      return { code = 1, message = cli.advise(without_place(problem)) }
    end
    local trace = debug.traceback(problem, 2)
    return { code = 1, message = trace:match "^(.*)\n\t%[C%]: in function 'xpcall'\n" or trace }
  end
  local ok, problem = xpcall(body, handler)
  if ok then return ranks.close() end
  if ranks.several() then problem = ranks.fail(thrown(problem)) end
  if type(problem) == "table" and problem.lost then -- nobody waits for it, and it for nobody
    ranks.let_first_speak()
    io.stderr:write("performer: ", core.term.plain(problem.message, true), "\n")
    require "performer.leave"(problem.code) -- also where the transport hangs in its own end
    ranks.here():abort(problem.code)
    problem.message = ""
  end
  error(problem, 0)
end

--- The same of a command that one rank does, where a launcher has started several.
function cli.alone(name, body)
  if not ranks.first() then return end
  if ranks.several() then
    cli.say("%s: %d ranks were started; rank 0 does it all, and the rest have nothing to do", name,
            ranks.size())
  end
  cli.main(body)
end

-- ---- output ----

--- `text` with U+FFFD for every byte that is not UTF-8, and for zero bytes.
function cli.utf8(text)
  local parts, at = {}, 1
  while at <= #text do
    local length, bad = utf8.len(text, at)
    parts[#parts + 1] = text:sub(at, length and #text or bad - 1)
    if length then break end
    parts[#parts + 1] = "\u{FFFD}"
    at = bad + 1
  end
  return (table.concat(parts):gsub("\0", "\u{FFFD}"))
end

--- The JSON text of plain data; a text in it that is not UTF-8 becomes so.
function cli.json(value)
  local function clean(entry)
    if type(entry) == "string" then return cli.utf8(entry) end
    if type(entry) ~= "table" then return entry end
    local copy = {}
    for key, inner in pairs(entry) do copy[clean(key)] = clean(inner) end
    return setmetatable(copy, getmetatable(entry))
  end
  return core.json.encode(clean(value))
end

--- `text` as one line that a terminal shows and obeys nothing of: for names out of files.
function cli.plain(text) return core.term.plain(text) end

--- `text`, or a part of it that begins and ends inside of a letter, with "?" for each byte that a
-- terminal obeys, but for ends of lines and tabs.
function cli.tame(text) return (text:gsub("[\0-\8\11-\31\127]", "?")) end

--- The text of a small file, of path "-" the standard input, without a byte order mark; or the end.
function cli.read(path)
  local file = path == "-" and io.stdin or cli.need(io.open(path, "rb"))
  local text, message = file:read "a"
  if file ~= io.stdin then file:close() end
  if not text then cli.fail(1, cli.advise(("%s: %s"):format(path, message))) end
  if text:sub(1, 2) == "\x1f\x8b" then
    cli.fail(1, ("%s: is packed (gzip); unpack it first, with gzip -dc"):format(path))
  end
  return (text:gsub("^\xef\xbb\xbf", ""))
end

--- Writes to stdout at once: true, or nil and why not.
local function write(...)
  local ok, message = io.stdout:write(...)
  if ok then ok, message = io.stdout:flush() end
  if not ok then return nil, ("can't write to the standard output: %s"):format(message) end
  return true
end

--- Writes to stdout at once. A full disk ends the command; a pipe that nobody reads any more does,
-- too, without a word.
function cli.write(...)
  if not ranks.first() then return end -- of several ranks one speaks
  local ok, message = write(...)
  if ok then return end
  if core.term.gone(1) then cli.fail(141, "") end
  cli.fail(1, cli.advise(message))
end

--- One record as a line of JSON on stdout.
function cli.print_json(record) cli.write(cli.json(record), "\n") end

--- print_json for work that is worth more than its lines: when one can't be written, that is said
-- once, no more are, and the work goes on. whose: "train"; elsewhere: where the records stand, too.
function cli.json_log(whose, elsewhere)
  local open = true
  return function(record)
    if not open then return end
    local ok, message = write(cli.json(record), "\n")
    open = ok
    if not ok then
      cli.say("%s: %s; it goes on without, and %s has the records", whose, message, elsewhere)
    end
  end
end

--- A line on stderr.
function cli.say(format, ...)
  if not ranks.first() then return end
  io.stderr:write(core.term.plain(format:format(...), true), "\n")
end

--- A number of things: "1 step", "2 steps", "2 copies" of cli.count(2, "copy", "copies").
function cli.count(n, thing, things)
  return ("%s %s"):format(n, n == 1 and thing or things or thing .. "s")
end

--- A word as a shell reads it.
function cli.quote(word)
  if word:find "^[%w%./_+:@%%-]+$" then return word end
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- "performer train" as it can be pasted where the user is: with the word that started the program,
-- which may not be on the PATH.
function cli.called(command)
  local program = (rawget(_G, "arg") or {})[-1] or "performer"
  return cli.quote(program) .. command:match "^performer(.*)$"
end

-- ---- options ----

--- An argument that is one of `names`.
function cli.choose(argument, name, names)
  return argument:convert(values.choice(name, names))
end

--- Choices "a|b" as a list of names; nil: any word.
function cli.split(choices)
  local names = {}
  for name in (choices or ""):gmatch "[^|]+" do names[#names + 1] = name end
  return #names > 0 and names or nil
end

--- The key of a row's value among parsed options: "head-dim" -> "head_dim".
function cli.key(row) return (row[1]:gsub("-", "_")) end

-- What the help calls a value of a kind.
local SHOWN = { integer = "whole", seed = "whole", signed = "number", switch = "on|off" }

--- A switch's value as a boolean: "on", "off", or what argparse makes of `--name` alone; nil stays.
function cli.switch(value)
  if type(value) == "table" then value = value[1] or "on" end
  if type(value) == "string" then return value == "on" end
  return value
end

local function help_of(row)
  local kind, help = row[2], row[4]
  local default = row[3] == nil and row[5] or row[3]
  if type(kind) == "table" then help = ("%s: %s"):format(help, table.concat(kind, ", ")) end
  if default ~= nil and default ~= "" then
    help = ("%s (default %s)"):format(help, tostring(default))
  end
  return help
end

--- One row as argparse's option.
local function add_row(parser, row)
  local name, kind = row[1], row[2]
  if kind == "flag" then return parser:flag("--" .. name, help_of(row)) end
  local option, convert = parser:option("--" .. name, help_of(row)),
                          values.converter(kind, "--" .. name)
  if kind == "switch" then option:args "?" end
  if convert then option:convert(convert) end
  if row.many then option:count "*" end
  if row.many == "words" then option:args "+" end
  return option:argname("<" .. (type(kind) == "table" and "name" or SHOWN[kind] or kind) .. ">")
end

--- Options of `rows` that may be given without their names, in this order, each with what the help
-- calls it there: cli.place(rows, { "checkpoint", "run" }, { "data", "file" }).
function cli.place(rows, ...)
  for i, entry in ipairs { ... } do
    for _, row in ipairs(rows) do
      if row[1] == entry[1] then row.place = { at = i, name = entry[2] } end
    end
  end
  return rows
end

--- Those rows, in the order of their places.
function cli.places(rows)
  local places = {}
  for _, row in ipairs(rows) do
    if row.place then places[row.place.at] = row end
  end
  return places
end

--- Adds the arguments that stand for options; the help begins with them alone.
local function add_places(parser, rows)
  local places, shown = cli.places(rows), {}
  for i, row in ipairs(places) do
    local name = row.place.name
    local argument = parser:argument(name, ("the same as --%s"):format(row[1]))
      :args(row.many and "*" or "?"):target("place_" .. cli.key(row))
    local convert = values.converter(row[2], name:upper())
    if convert then argument:convert(convert) end
    shown[i] = ("<%s>%s"):format(name, row.many and " ..." or "")
  end
  if #places > 0 then
    parser:usage(("Usage: %s %s [options]"):format(parser._name, table.concat(shown, " ")))
  end
end

--- Adds options from a table of rows { name, kind, default, help, shown } to an argparse parser.
-- kind: "whole", "positive", "seed", "number", "integer" and "signed" (of either sign), "bytes"
-- (256M), "flag", "switch" (`--name`, `--name on` or `--name off`), a list of choices, or a word
-- for any text; of "file", "folder" and the like one that is not empty. shown: what the help says
-- of a default that the rows don't hold; row.group: the heading there. row.many: may be given more
-- than once, whose value is a list: "times", or "words", which takes several words at a time, too.
-- row.names: what a shell completes a word to that the command checks itself.
function cli.add(parser, rows)
  local groups, order, seen = {}, {}, {}
  for _, row in ipairs(rows) do
    if seen[row[1]] then
      error(("two options are called --%s; model_options.lua can give one another word"):format(
        row[1]))
    end
    seen[row[1]] = true
    local option, group = add_row(parser, row), row.group
    if group and not groups[group] then
      groups[group], order[#order + 1] = {}, group
    end
    if group then table.insert(groups[group], option) end
  end
  for _, group in ipairs(order) do parser:group(group, table.unpack(groups[group])) end
  add_places(parser, rows)
  return parser
end

--- A parser for command `name`; `examples` are printed after the options.
function cli.parser(name, summary, examples)
  local parser = argparse("performer " .. name, summary)
  parser:epilog("Examples:\n  " .. table.concat(examples, "\n  "))
  parser:usage_max_width(80)
  parser:help_max_width(80)
  return parser
end

--- argparse's complaint as one sentence.
local function complaint(message, rows)
  message = message:gsub("\n.*", "")
  if message ~= "too many arguments" then return message end
  local places = cli.places(rows)
  for i, row in ipairs(places) do places[i] = row.place.name:upper() end
  if #places == 0 then return message end
  return ("too many words: there is a place for %s; what has blanks in it is quoted, 'like this'")
    :format(table.concat(places, " and "))
end

--- Refuses a word that looks like an option and is none, with what is meant by it. argparse would
-- read -ngl as three options of one letter.
local function check_options(words, known, parser)
  for _, word in ipairs(words) do
    if word == "--" then return end
    local name = word:match "^[^=]*"
    if name:find "^%-." and not known[name] then
      local names = { "help" }
      for option in pairs(known) do names[#names + 1] = option:match "^%-%-(.+)" end
      table.sort(names)
      cli.fail(2, ("unknown option '%s'%s; %s --help lists what there is"):format(name,
        cli_words.hint(name, names), cli.called(parser._name)))
    end
  end
end

local function is_file(path)
  local file = path ~= nil and io.open(path)
  return file and file:close() or false
end

--- Words in which `--name -1` is `--name=-1`: what follows an option that takes a value is its
-- value, unless it is an option itself (argparse takes every word with a dash for one); what
-- follows a switch is, unless it is a file, which stands for itself. And the set of all "--name".
local function join_values(words, rows)
  local kinds, known, joined = {}, { ["-h"] = true, ["--help"] = true }, {}
  for _, row in ipairs(rows) do
    known["--" .. row[1]], kinds["--" .. row[1]] = true, row[2]
  end
  local i = 1
  while i <= #words do
    local word, value = words[i], words[i + 1]
    if word == "--" then return table.move(words, i, #words, #joined + 1, joined), known end
    local kind, dashed = kinds[word], value and value:find "^%-." ~= nil
    local joins = kind and kind ~= "flag" and kind ~= "switch" and dashed
      and not known[value:match "^[^=]*"]
    local is_value = value == "on" or value == "off" or dashed
    if kind == "switch" and not is_value and is_file(value) then word = word .. "=on" end
    joined[#joined + 1] = joins and word .. "=" .. value or word
    i = i + (joins and 2 or 1)
  end
  return joined, known
end

--- Says which options are given twice with two values: the last one counts.
local function tell_twice(words, rows)
  local seen, many = {}, {}
  for _, row in ipairs(rows) do many["--" .. row[1]] = row.many end
  for i, word in ipairs(words) do
    if word == "--" then return end
    local name, value = word:match "^(%-%-[^=]+)=(.*)$"
    if not name and word:find "^%-%-" and words[i + 1] and not words[i + 1]:find "^%-" then
      name, value = word, words[i + 1]
    end
    if name and not many[name] and seen[name] and seen[name] ~= value then
      cli.say("%s is given twice, as %s and as %s: the last one counts", name,
              cli.quote(seen[name]), cli.quote(value))
    end
    if name then seen[name] = value end
  end
end

--- The values of an option that may be given more than once, as one list; nil: none.
local function flat(said)
  local list = {}
  for _, value in ipairs(said or {}) do
    if type(value) == "table" then
      table.move(value, 1, #value, #list + 1, list)
    else
      list[#list + 1] = value
    end
  end
  return #list > 0 and list or nil
end

--- A value that was given; of an option that may be given more than once argparse makes a list.
local function said(value)
  if type(value) ~= "table" or #value > 0 then return value end
end

--- Puts what stands without an option's name in the place of the option that it is for.
local function take_places(result, rows, parser)
  for _, row in ipairs(cli.places(rows)) do
    local key, here = cli.key(row), "place_" .. cli.key(row)
    local value, other = said(result[here]), said(result[key])
    if value and other then
      cli.fail(2, ("%s: '%s' stands where --%s is meant, and that is given, too: say it once")
        :format(parser._name:match "%S+$", type(value) == "table" and value[1] or value, row[1]))
    end
    result[here] = nil
    if value ~= nil then result[key] = value end
  end
end

--- Parses `arg`; a mistake is misuse (code 2) in one sentence. Defaults are filled in from
-- the rows, so that `given` tells what the user typed himself.
function cli.parse(parser, rows, words)
  for _, argument in ipairs(parser._arguments) do -- of no option: a path that is needed
    if not argument._convert and argument._minargs > 0 then
      argument:convert(values.converter("path", argument._name:upper()))
    end
  end
  local known
  words, known = join_values(words, rows)
  advice.command(known)
  check_options(words, known, parser)
  local ok, result = parser:pparse(words)
  if ok then tell_twice(words, rows) end
  if not ok then
    cli.fail(2, ("%s; %s --help lists what there is"):format(complaint(result, rows),
                                                            cli.called(parser._name)))
  end
  take_places(result, rows, parser)
  local given = {}
  for _, row in ipairs(rows) do
    local key = cli.key(row)
    if row[2] == "switch" then result[key] = cli.switch(result[key]) end
    if row.many then result[key] = flat(result[key]) end
  end
  for key, value in pairs(result) do given[key] = value end
  for _, row in ipairs(rows) do
    local key = cli.key(row)
    if result[key] == nil and row[2] ~= "flag" then result[key] = row[3] end
  end
  return result, given
end

--- Checks that `word` is among `names`, with the nearest one in the complaint.
function cli.check_name(option, word, names)
  for _, name in ipairs(names) do
    if name == word then return end
  end
  cli.fail(2, ("--%s: there is no '%s'%s; there are %s"):format(option, word,
    cli_words.value_hint(word, names), table.concat(names, ", ")))
end

return cli
