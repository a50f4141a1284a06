-- messages_spec.lua - what the engine says of a failure is read by those who call it from Lua or a
-- command line, too: it names no function of C. What only a host in C can cause may.
local support = require "spec.support"

-- Files whose messages are for hosts in C alone.
local OF_HOSTS = { ["engine/runtime/config.c"] = true, ["engine/runtime/status.c"] = true }

describe("messages of the engine", function()
  it("name no function of C", function()
    local list <close> = assert(io.popen "find engine -name '*.c'")
    local files, calls = 0, 0
    for path in list:lines() do
      local text = OF_HOSTS[path] and "" or support.read(path)
      files = files + 1
      for call in text:gmatch "pf_fail[%w_]*(%b())" do
        calls = calls + 1
        for words in call:gmatch '"(.-[^\\])"' do
          assert.is_nil(words:match "%f[%w_]pf_%l[%l_]+", ("%s: %s"):format(path, words))
        end
      end
    end
    assert.is_true(files > 100 and calls > 500)
  end)
end)
