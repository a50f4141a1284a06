--- performer run - a script within limits, of memory, time and work.
local cli = require "kit.cli"
local engine = require "kit.engine"
local run = require "performer.run"

local OVER = 3 -- the exit code when a limit was reached

local ROWS = {
  { "sandbox", "flag", nil, "a stranger's script: no files, no system, no bytecode; by default "
    .. "--memory 256M --seconds 10" },
  { "memory", "bytes", nil, "of tensors and Lua together: 256M, 4G, or a number of bytes",
    "no bound" },
  { "seconds", "number", nil, "of the clock", "no bound" },
  { "work", "positive", nil, "instructions of Lua and of the engine, the same count on any machine",
    "no bound" },
  engine.threads(),
  { "json", "flag", nil, "one JSON object on stdout: how it ended and what it used; what the "
    .. "script prints goes to stderr" },
}

--- What --sandbox bounds where nothing else was said.
local SANDBOX = { memory = 256 << 20, seconds = 10 }

--- The words before FILE.lua, the file, and the words behind it, which are the script's own.
local function split(words)
  local takes, i = {}, 1
  for _, row in ipairs(ROWS) do takes["--" .. row[1]] = row[2] ~= "flag" end
  while words[i] and words[i]:find "^%-%-?[^-]" do i = i + (takes[words[i]] and 2 or 1) end
  return table.move(words, 1, i, 1, {}), table.move(words, i + 1, #words, 1, {})
end

--- Says of the script's words those that look like options of ours: a limit that was meant for run
--- would be none, in silence.
local function tell_behind(file, words)
  local ours, behind = {}, {}
  for _, row in ipairs(ROWS) do ours["--" .. row[1]] = true end
  for _, word in ipairs(words) do
    local name = word:match "^[^=]*"
    if ours[name] then behind[#behind + 1] = name end
  end
  if #behind == 0 then return end
  cli.say("run: %s behind %s: the script's own; options of run stand before the file",
    table.concat(behind, ", "), file)
end

--- Which limit it was, in one sentence. The message begins with the script's line, where one ran.
local function say_over(path, message, usage)
  local place = message:sub(1, #path + 1) == path .. ":" and "" or path .. ": "
  return ("%s%s (after %.2f seconds and %d units of work, with %.1f MB at most)"):format(place,
    message, usage.seconds, usage.work, usage.peak / 1048576)
end

--- How it ended, for programs.
local function record(options, ok, message, code, usage)
  local over = type(code) == "string"
  return { file = options.file, ended = ok and "done" or over and "limit" or "failed",
           status = over and code or nil, code = ok and 0 or over and OVER or code,
           message = message, seconds = usage.seconds, work = usage.work, bytes_peak = usage.peak }
end

local function main()
  local parser = cli.parser("run", "Runs a script within limits; exit code 3 when one was reached.",
    { "performer run --seconds 60 --memory 2G mine.lua",
      "performer run --sandbox --memory 256M --seconds 10 strangers.lua" })
  parser:argument("file", "the script; what follows it, options too, are its arguments")
  local own, arguments = split(arg)
  local options = cli.parse(cli.add(parser, ROWS), ROWS, own)
  if options.file == "-" then
    cli.fail(2, "run: a script within limits is a file; the standard input is for performer -")
  end
  if options.seconds == 0 then
    cli.fail(2, "run: --seconds 0 bounds nothing: leave it out, or give more")
  end
  tell_behind(options.file, arguments)
  local limits = options.sandbox and SANDBOX or {}
  if options.threads then engine.open { threads = options.threads } end
  local ok, message, code, usage = run {
    path = options.file, args = arguments, sandbox = options.sandbox, work = options.work,
    bytes = options.memory or limits.memory, seconds = options.seconds or limits.seconds,
    aside = options.json }
  if ok then message, usage = nil, message end
  if options.json then cli.print_json(record(options, ok, message, code, usage)) end
  if ok then return end
  if code == "PF_ECANCEL" then cli.fail(130, "interrupted") end
  if type(code) == "number" then cli.fail(code, message) end
  cli.fail(OVER, say_over(options.file, message, usage))
end

cli.main(main)
