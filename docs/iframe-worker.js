// Browsers start no workers on pages that are opened from files. There, the search runs in a hidden frame, which gets what a worker has.
"use strict";

class FrameWorker extends EventTarget {
  #frame = document.createElement("iframe");
  #loaded;

  constructor(url) {
    super();
    this.#frame.hidden = true;
    document.body.append(this.#frame);
    const inside = this.#frame.contentWindow;
    inside.postMessage = (data) => setTimeout(() => this.#receive(data));
    inside.importScripts = (...urls) => urls.reduce((before, next) => before.then(() => this.#load(next)), Promise.resolve());
    this.#loaded = this.#load(url);
  }

  postMessage(data) {
    const inside = this.#frame.contentWindow;
    this.#loaded.then(() => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
  }

  terminate() {
    this.#frame.remove();
  }

  #load(url) {
    const script = this.#frame.contentDocument.createElement("script");
    script.src = new URL(url, document.baseURI).href;
    this.#frame.contentDocument.body.append(script);
    return new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${script.src} cannot be loaded`));
    });
  }

  #receive(data) {
    const event = new MessageEvent("message", { data });
    this.dispatchEvent(event);
    this.onmessage?.(event);
  }
}

if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = FrameWorker; // the second is the name by which mkdocs-material knows that there is a frame
}
