// The only script that calls the server: functions of this component, by name. Answers are JSON.

// Ask the server. null means nothing new; Gradio's client returns undefined for a failed call, which is thrown here.
async function askServer(name, request = {}) {
  const answer = await server[name](request);
  if (answer === undefined) throw new Error("Server not responding");
  return answer;
}

// An answer that has nothing but an error. Others have a field of that name, such as a failed question.
const isRefusal = (answer) => Boolean(answer?.error) && Object.keys(answer).length === 1;

// createCall(showMessage)(name, request, button) asks the server for a person: an error is shown and undefined is
// returned; the button is disabled meanwhile. expect(name) is called before, and the function that it returns after:
// whether the answer is still wanted.
function createCall(showMessage, ask = askServer, expect = () => () => true) {
  return async (name, request, button) => {
    if (button) button.disabled = true;
    try {
      const isWanted = expect(name);
      const answer = await ask(name, request);
      if (!isWanted()) return undefined;
      if (!isRefusal(answer)) return answer ?? {};
      showMessage(answer.error, true);
    } catch {
      showMessage("Server not responding. This change may not be saved; earlier ones are. Try again.", true);
    } finally {
      if (button) button.disabled = false;
    }
    return undefined;
  };
}
