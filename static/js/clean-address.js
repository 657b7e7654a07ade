// Takes the order's key out of the address bar and the history: the cookie that came with this page opens the order now.
const clean = new URL(location);
clean.searchParams.delete("key");
if (navigator.cookieEnabled) history.replaceState(history.state, "", clean);
