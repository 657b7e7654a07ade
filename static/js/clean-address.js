// Takes the order's key out of the address bar and the history, if the cookie that came with this page opens the order
// now: to a browser that sends it, the shop answers with a redirect to the address without the key.
const clean = new URL(location);
clean.searchParams.delete("key");
fetch(location, { method: "HEAD", redirect: "manual", cache: "no-store" }).then((reply) => {
  if (reply.type === "opaqueredirect") history.replaceState(history.state, "", clean);
});
