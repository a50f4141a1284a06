-- manual.lua - man pages and shell completion, made of what each command's parser knows: the tables
-- of options are their one source, as they are of --help. A step of the build, and of packagers:
--
--   performer bindings/manual.lua SCRIPTS OUT
--
-- writes OUT/man/man1/*.1, OUT/bash-completion/completions/performer, OUT/zsh/site-functions/
-- _performer and OUT/fish/vendor_completions.d/performer.fish. Pages carry the day of
-- SOURCE_DATE_EPOCH, so that a build can be repeated to the byte.
for _, name in ipairs { "argparse", "lfs" } do
  if not pcall(require, name) then
    print("no man pages and no completion: they need Lua's " .. name)
    return
  end
end
local lfs = require "lfs"
local commands = require "kit.commands"

local SCRIPTS, OUT = arg[1], arg[2]
local DAY = os.date("!%B %d, %Y", tonumber(os.getenv "SOURCE_DATE_EPOCH")):gsub(" 0", " ")

-- ---- man pages ---------------------------------------------------------------------------

--- Text as mdoc: sentences begin lines, none is long, and nothing in it is a request.
local function mdoc(text)
  text = text:gsub("\\", "\\e"):gsub("%s+", " "):gsub("([%.!?]) (%u)", "%1\n%2")
  local lines = {}
  for sentence in text:gmatch "[^\n]+" do
    local line = ""
    for word in sentence:gmatch "%S+" do
      if #line + #word > 76 then
        lines[#lines + 1], line = line, ""
      end
      line = line == "" and word or line .. " " .. word
    end
    lines[#lines + 1] = line
  end
  for i, line in ipairs(lines) do lines[i] = line:gsub("^[.']", "\\&%0") end
  return table.concat(lines, "\n")
end

--- Words as the arguments of a macro.
local function words(text) return (text:gsub("\\", "\\e"):gsub("%-", "\\-")) end

--- A help text as a sentence; one that begins with the case it is for ("train: ...") as it is.
local function sentence(text)
  if not text:find "^[%l, ]+:" then text = text:gsub("^%l", string.upper) end
  return text:find "[%.!?]$" and text or text .. "."
end

local function add_options(page, options)
  local group
  page(".Bl -tag -width Ds")
  for _, option in ipairs(options) do
    if option.group ~= group then
      page(".El")
      page((".Ss %s"):format(option.group or "More"))
      page(".Bl -tag -width Ds")
      group = option.group
    end
    local tail = option.switch and " Op Cm on | off"
      or option.argument and " Ar " .. words(option.argument) .. (option.many and " ..." or "")
      or ""
    page((".It %sFl \\-%s%s"):format(option.short and "Fl " .. option.short:sub(2) .. " , " or "",
      words(option.name), tail))
    page(mdoc(sentence(option.help)))
  end
  page(".El")
end

--- Options without a group first, then group by group.
local function sorted(options)
  local order, at, list = {}, {}, {}
  for _, option in ipairs(options) do
    local key = option.group or ""
    if not at[key] then
      at[key] = {}
      if key ~= "" then order[#order + 1] = key end
    end
    table.insert(at[key], option)
  end
  table.insert(order, 1, "")
  for _, key in ipairs(order) do
    for _, option in ipairs(at[key] or {}) do list[#list + 1] = option end
  end
  return list
end

local function writer()
  local lines = {}
  return function(text) lines[#lines + 1] = text end, lines
end

local function head(page, name, what)
  page((".Dd %s\n.Dt %s 1\n.Os\n.Sh NAME\n.Nm %s\n.Nd %s"):format(DAY, name:upper(), name, what))
end

local function add_exits(page)
  page(".Sh EXIT STATUS\n.Bl -tag -width Ds")
  for _, exit in ipairs(commands.exits) do page((".It %s\n%s"):format(exit[1], exit[2])) end
  page(".El")
end

local function add_examples(page, examples)
  page(".Sh EXAMPLES")
  for _, example in ipairs(examples) do
    page(".Dl " .. words(example:gsub("%s+", " ")):gsub('"', "\\(dq"))
  end
end

local function command_page(command)
  local page, lines = writer()
  head(page, "performer-" .. command.name, command.purpose)
  page(".Sh SYNOPSIS\n.Nm performer\n.Cm " .. command.name .. "\n.Op Ar options")
  for _, argument in ipairs(command.arguments) do
    page((argument.optional and ".Op Ar %s" or ".Ar %s"):format(argument.name)
      .. (argument.many and " ..." or ""))
  end
  page(".Sh DESCRIPTION\n" .. mdoc(command.summary))
  if #command.arguments > 0 then
    page ".Bl -tag -width Ds"
    for _, argument in ipairs(command.arguments) do
      page((".It Ar %s\n%s"):format(argument.name, mdoc(sentence(argument.help or argument.name))))
    end
    page ".El"
  end
  page ".Pp\nThe options are:"
  add_options(page, sorted(command.options))
  add_exits(page)
  add_examples(page, command.examples)
  page ".Sh SEE ALSO\n.Xr performer 1"
  return table.concat(lines, "\n") .. "\n"
end

local function main_page(list)
  local page, lines = writer()
  head(page, "performer", "transformers with linear attention, on CPUs")
  page [[
.Sh SYNOPSIS
.Nm
.Ar command
.Op Ar options
.Nm
.Op Fl e Ar code
.Op Fl i
.Op Ar file.lua | Cm \-
.Op Ar arguments
.Nm
.Fl \-help | \-version
.Sh DESCRIPTION
Trains and runs Performers: transformers whose attention costs time and memory
linear in the length of what they read.
A
.Ar file.lua ,
or
.Cm \-
for what comes through the standard input, is run as a script with the engine
at hand.
Without any words
.Nm
is a prompt on a terminal, and elsewhere runs the standard input.
The options are:
.Bl -tag -width Ds]]
  for _, start in ipairs(commands.starts) do
    page((".It Fl %s%s\n%s"):format(start[1], start[2] and " Ar " .. start[2] or "",
      mdoc(start[3])))
  end
  page [[
.El
.Pp
At the prompt the values of expressions are shown, Tab completes names, options
and files, and
.Ql \&?
alone says what else there is.
.Pp
The commands are:
.Bl -tag -width Ds]]
  for _, command in ipairs(list) do
    page((".It Xr performer-%s 1\n%s"):format(command.name, mdoc(sentence(command.purpose))))
  end
  page [[
.El
.Sh ENVIRONMENT
.Bl -tag -width Ds
.It Ev PF_CPU
The highest level of instructions to use: generic, avx2 or avx512.
.It Ev OMP_NUM_THREADS
How many threads where
.Fl \-threads
says nothing.
.It Ev NO_COLOR
No colours.
.It Ev PF_HISTORY
The file that keeps what was typed at the prompt, or
.Ql off
for none.
.El
.Sh FILES
.Bl -tag -width Ds
.It Pa ~/.local/state/performer/history
What was typed at the prompt, in
.Ev XDG_STATE_HOME
where that is set.
.El]]
  add_exits(page)
  page ".Sh EXAMPLES"
  page '.Dl performer \\-e \\(dqprint(pf.randn(2, 3):softmax())\\(dq'
  for _, command in ipairs(list) do
    page(".Dl " .. words(command.examples[1]:gsub("%s+", " ")))
  end
  page ".Sh SEE ALSO"
  for i, command in ipairs(list) do
    page((".Xr performer-%s 1%s"):format(command.name, i < #list and " ," or ""))
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- completion ----------------------------------------------------------------------------

--- The first sentence of a help text, in a shell's single quotes, `more` escaped too.
local function brief(text, more)
  text = text:gsub("%s+", " "):gsub("%. .*", ""):gsub("%.$", ""):gsub("\\", "")
  if #text > 70 then text = text:sub(1, 67):gsub("%s+%S*$", "") .. "..." end
  if more then text = text:gsub(more, "\\%0") end
  return (text:gsub("'", "'\\''"))
end

local function names_of(options)
  local names = {}
  for i, option in ipairs(options) do names[i] = "--" .. option.name end
  return table.concat(names, " ")
end

local function bash(list)
  local page, lines = writer()
  local names = {}
  for i, command in ipairs(list) do names[i] = command.name end
  page "# bash completion of performer, made by bindings/manual.lua"
  page "_performer() {"
  page "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} options="
  page "  COMPREPLY=()"
  page "  if ((COMP_CWORD == 1)); then"
  page(("    COMPREPLY=($(compgen -W '%s -e -i --help --version' -- \"$word\")"):format(
    table.concat(names, " ")))
  page "               $(compgen -o plusdirs -f -X '!*.lua' -- \"$word\"))"
  page "    return"
  page "  fi"
  page "  case $before in"
  page "    -e) return ;;"
  page "    -i) COMPREPLY=($(compgen -o plusdirs -f -X '!*.lua' -- \"$word\")); return ;;"
  page "  esac"
  page "  case ${COMP_WORDS[1]}$before in"
  for _, command in ipairs(list) do
    for _, option in ipairs(command.options) do
      if option.words then
        page(("    %s--%s) options='%s' ;;"):format(command.name, option.name,
          table.concat(option.words, " ")))
      elseif not option.flag then
        page(("    %s--%s) return ;;"):format(command.name, option.name))
      end
    end
  end
  page "  esac"
  page "  if [[ -z $options && $word == -* ]]; then"
  page "    case ${COMP_WORDS[1]} in"
  for _, command in ipairs(list) do
    page(("      %s) options='%s' ;;"):format(command.name, names_of(command.options)))
  end
  page "    esac"
  page "  fi"
  page "  [[ -z $options ]] || COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))"
  page "  return 0"
  page "}"
  page "complete -o default -F _performer performer"
  return table.concat(lines, "\n") .. "\n"
end

local function zsh_option(option)
  local what = ""
  if option.switch then
    what = "::on or off:(on off)"
  elseif option.argument then
    what = (":%s:%s"):format(option.argument:gsub("[|:]", " "),
      option.words and "(" .. table.concat(option.words, " ") .. ")" or "_files")
  end
  local equals = option.switch and "=-" or option.argument and "=" or ""
  return ("      '%s--%s%s[%s]%s' \\"):format(option.many and "*" or "", option.name, equals,
    brief(option.help, "[%[%]:]"), what)
end

local function zsh(list)
  local page, lines = writer()
  page "#compdef performer\n# zsh completion of performer, made by bindings/manual.lua"
  page "_performer() {\n  local -a commands\n  commands=("
  for _, command in ipairs(list) do
    page(("    '%s:%s'"):format(command.name, brief(command.purpose, ":")))
  end
  page "  )\n  local -a starts=("
  for _, start in ipairs(commands.starts) do
    page(("    '-%s:%s'"):format(start[1], brief(start[3], ":")))
  end
  page "  )\n  if (( CURRENT == 2 )); then"
  page "    _describe command commands\n    _files -g '*.lua'"
  page "    _describe -o option starts\n    return\n  fi"
  page "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in"
  for _, command in ipairs(list) do
    page(("    %s) _arguments \\"):format(command.name))
    for _, option in ipairs(command.options) do page(zsh_option(option)) end
    page "      '*:file:_files' ;;"
  end
  page "    *) _files ;;\n  esac\n}\n_performer \"$@\""
  return table.concat(lines, "\n") .. "\n"
end

local function fish(list)
  local page, lines = writer()
  page "# fish completion of performer, made by bindings/manual.lua"
  for _, start in ipairs(commands.starts) do
    page(("complete -c performer -n __fish_use_subcommand -s %s%s -d '%s'"):format(start[1],
      start[2] and " -r" or "", brief(start[3])))
  end
  for _, command in ipairs(list) do
    page(("complete -c performer -n __fish_use_subcommand -a %s -d '%s'"):format(command.name,
      brief(command.purpose)))
  end
  for _, command in ipairs(list) do
    for _, option in ipairs(command.options) do
      local value = option.words and (" -x -a '%s'"):format(table.concat(option.words, " "))
        or not option.flag and " -r" or ""
      page(("complete -c performer -n '__fish_seen_subcommand_from %s' -l %s%s -d '%s'"):format(
        command.name, option.name, value, brief(option.help)))
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- files -----------------------------------------------------------------------------------

local function write(path, text)
  local folder = ""
  for part in path:gmatch "[^/]*/" do
    folder = folder .. part
    lfs.mkdir(folder)
  end
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  assert(file:close())
end

local list = commands.list(SCRIPTS)
for _, command in ipairs(list) do
  write(("%s/man/man1/performer-%s.1"):format(OUT, command.name), command_page(command))
end
write(OUT .. "/man/man1/performer.1", main_page(list))
write(OUT .. "/bash-completion/completions/performer", bash(list))
write(OUT .. "/zsh/site-functions/_performer", zsh(list))
write(OUT .. "/fish/vendor_completions.d/performer.fish", fish(list))
