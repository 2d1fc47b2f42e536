// Questions to the service. Every answer is JSON; every failure becomes a ServiceError whose message is for people.

const PATIENCE = 15000; // milliseconds after which an answer is not waited for any longer

export class ServiceError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// address`/v1/users/${id}` with every value encoded: an id may hold a slash, a question mark, or anything else.
export function address(parts, ...values) {
  return parts.reduce((path, part, index) => path + encodeURIComponent(values[index - 1]) + part);
}

// Ask for `path`. `signal` ends the question when its answer is not wanted any more; that is no failure, and the
// AbortError goes on to the caller.
export async function ask(path, signal) {
  let response;
  try {
    const tooLate = AbortSignal.timeout(PATIENCE);
    response = await fetch(path, {
      headers: {Accept: "application/json"},
      signal: signal ? AbortSignal.any([signal, tooLate]) : tooLate,
    });
  } catch (error) {
    throw inWords(error);
  }
  if (!response.ok) {
    throw new ServiceError(await reasonOf(response), response.status);
  }
  try {
    return await response.json();
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new ServiceError("The service sent an answer that is not JSON.", response.status);
    }
    throw inWords(error);
  }
}

function inWords(error) {
  if (error.name === "AbortError") {
    return error;
  }
  if (error.name === "TimeoutError") {
    return new ServiceError(`The service did not answer within ${PATIENCE / 1000} seconds.`);
  }
  return new ServiceError("The service cannot be reached. Is it running, and is this computer online?");
}

// What the service says about its own error; where it says nothing readable (a proxy in between), the status.
async function reasonOf(response) {
  try {
    const {detail} = await response.json();
    if (typeof detail === "string" && detail) {
      return detail;
    }
  } catch {
    // Not JSON: the status below says enough.
  }
  return response.status === 429
    ? "Too many requests. Wait a moment."
    : `The service answered with an error (${response.status}).`;
}
