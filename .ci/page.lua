-- page.lua - the example server's page in a real browser: typed into, clicked, watched, left, and
-- looked at when the server refuses or is gone. Takes build/release, chromium and its driver, curl.
-- Ends with one line "N passed, N failed".  performer .ci/page.lua [PICTURE.png]
local pf = require "performer"

local build = (os.getenv "PF_BUILD" or "build/release")
local passed, failed = 0, 0
local folder = os.tmpname()
os.remove(folder)

local function check(what, good)
  if good then passed = passed + 1 else
    failed = failed + 1
    io.stderr:write("page: ", what, "\n")
  end
end

-- ---- programs -------------------------------------------------------------------------

local function output(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  pipe:close()
  return text
end

--- Starts a program in the background; its process.
local function start(command, name)
  return output(("%s >'%s/%s' 2>&1 & echo $!"):format(command, folder, name)):match "%d+"
end

--- Calls f until it gives something, for at most `seconds`.
local function wait(seconds, f)
  local stop = pf.clock() + seconds
  repeat
    local value = f()
    if value then return value end
    os.execute "sleep 0.05"
  until pf.clock() > stop
end

local function read(name)
  local file = io.open(folder .. "/" .. name, "rb")
  local text = file and file:read "a" or ""
  if file then file:close() end
  return text
end

-- ---- WebDriver ------------------------------------------------------------------------

local driver -- "http://127.0.0.1:PORT/session/ID"

local function call(method, path, value)
  local file = assert(io.open(folder .. "/body", "wb"))
  file:write(value and pf.json.encode(value) or "")
  file:close()
  local text = output(("curl -s -X %s -H 'Content-Type: application/json' %s '%s%s'"):format(method,
    method == "POST" and ("--data-binary '@%s/body'"):format(folder) or "", driver, path))
  local answer = pf.json.decode(text)
  return type(answer) == "table" and answer.value or nil
end

--- What a piece of JavaScript returns.
local function script(text)
  return call("POST", "/execute/sync", { script = text, args = pf.json.list {} })
end

local function find(id)
  local element = call("POST", "/element", { using = "css selector", value = "#" .. id })
  local _, key = next(element)
  return "/element/" .. key
end

local function type_into(id, text)
  call("POST", find(id) .. "/clear", {})
  call("POST", find(id) .. "/value", { text = text })
end

local function click(id) call("POST", find(id) .. "/click", {}) end
--- Escaped on the way: a model's text may hold what JSON's readers refuse.
local function text_of(id)
  local element = ("document.getElementById('%s')"):format(id)
  local text = script(("return encodeURIComponent(%s.textContent)"):format(element))
  return ((text or ""):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function open_browser()
  local port = 20000 + math.random(20000)
  local process = start(("chromedriver --port=%d"):format(port), "driver")
  driver = ("http://127.0.0.1:%d"):format(port)
  wait(20, function() return output(("curl -s %s/status"):format(driver)):find '"ready":true' end)
  local session = call("POST", "/session", { capabilities = { alwaysMatch = {
    ["goog:chromeOptions"] = { args = pf.json.list { "--headless=new", "--no-sandbox",
      "--disable-gpu", "--disable-dev-shm-usage", "--window-size=900,700" } } } } })
  if not session or not session.sessionId then return nil, process end
  driver = driver .. "/session/" .. session.sessionId
  return true, process
end

-- ---- the server -----------------------------------------------------------------------

--- A model of ASCII letters that writes anything.
local function make_run()
  pf.seed(1)
  local model = pf.nn.performer { vocab = 128, dim = 16, layers = 1, heads = 2, causal = true,
                                  kernel = pf.kernel.relu {} }
  assert(pf.checkpoint.save(folder .. "/run", { model = model, tokenizer = "byte" }))
end

local function serve(options, name)
  local process = start(("'%s/examples/serve' --model '%s/run' --port 0 --threads 1 %s"):format(
    build, folder, options), name)
  return wait(10, function() return read(name):match "http://[%d.:]+/" end), process
end

-- ---- what a visitor does --------------------------------------------------------------

local function test_writing(address)
  call("POST", "/url", { url = address })
  check("the page has its title", script "return document.title" == "Performer")
  type_into("prompt", 'Say "<b>this</b>"')
  type_into("tokens", "40")
  type_into("seed", "7")
  click "go"
  check("a text ends", wait(10, function()
    return text_of "state" == "40 tokens: as many as were asked for" end))
  local first = text_of "text"
  check("the prompt stands before it, as it was typed",
    first:sub(1, 17) == 'Say "<b>this</b>"' and #first == 17 + 40)
  click "go"
  check("the same seed", wait(10, function()
    return text_of "state":find "^40 tokens" and text_of "text" == first end))
  check("health is told", wait(10, function()
    return text_of "health":find "^0 running, 0 waiting, 2 served" end))
end

local function test_stopping(address)
  type_into("tokens", "1000000")
  click "go"
  check("it writes", wait(10, function() return #text_of "text" > 100 end))
  click "stop"
  check("it stops", text_of "state" == "stopped")
  local health
  check("who stops leaves the batch", wait(30, function()
    health = output(("curl -s %shealth"):format(address))
    return health:find '"running": 0.*"gone": 1' end))
  if failed > 0 then io.stderr:write(health) end
  type_into("temperature", "999")
  click "go"
  check("a refusal is told", wait(10, function()
    return text_of "state" == "temperature must be a number from 0 to 100" end))
end

local function test_link(address)
  call("POST", "/url", { url = address .. "?prompt=Once&tokens=12&seed=3&write" })
  check("a link begins to write", wait(10, function()
    return text_of "state" == "12 tokens: as many as were asked for" end))
  check("and has its prompt", text_of "text":sub(1, 4) == "Once" and #text_of "text" == 16)
end

local function test_end(process)
  type_into("tokens", "1000000")
  click "go"
  wait(10, function() return #text_of "text" > 100 end)
  os.execute("kill " .. process)
  check("the end of the server is told", wait(10, function()
    return text_of "state":find "the server is ending" end))
  check("and that it is gone", wait(10, function()
    return text_of "health" == "the server doesn't answer" end))
end

--- What the visitor sees, as a PNG file.
local function picture(path)
  local data = call("GET", "/screenshot")
  local file = assert(io.open(folder .. "/picture", "wb"))
  file:write(data or "")
  file:close()
  os.execute(("base64 -d '%s/picture' >'%s'"):format(folder, path))
end

os.execute(("mkdir -p '%s'"):format(folder))
math.randomseed(os.time())
make_run()
local address, process = serve("--tokens 1000000 --grace 0", "serve")
local ready, browser = open_browser()
check("the server begins", address)
check("a browser begins", ready)

local function visit()
  test_writing(address)
  if arg[1] then picture(arg[1]) end
  test_stopping(address)
  test_link(address)
  test_end(process)
end

-- Whatever happens, no program stays behind.
local through, problem = true, nil
if address and ready then
  through, problem = xpcall(visit, debug.traceback)
  call("DELETE", "")
end
check(problem, through)
os.execute(("kill %s %s 2>/dev/null; rm -rf '%s'"):format(process or "", browser or "", folder))
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and 0 or 1)
