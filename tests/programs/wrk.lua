-- Compares every body with a file. Counters live in each thread; `done` adds them up.
local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local file = assert(io.open(args[1], "rb"))
   expected = file:read("*a")
   file:close()
   right, wrong, other = 0, 0, 0
end

function response(status, headers, body)
   if status ~= 200 then
      other = other + 1
   elseif body == expected then
      right = right + 1
   else
      wrong = wrong + 1
   end
end

function done(summary, latency, requests)
   local right, wrong, other = 0, 0, 0
   for _, thread in ipairs(threads) do
      right = right + thread:get("right")
      wrong = wrong + thread:get("wrong")
      other = other + thread:get("other")
   end
   local e = summary.errors
   print("right bodies: " .. right)
   print("wrong bodies: " .. wrong)
   print("statuses other than 200: " .. other)
   print("errors: " .. e.connect + e.read + e.write + e.status + e.timeout)
end
