//! Where a browser is asked for a passkey, or to make one. It takes a script, the only one there is: it does nothing but hand the
//! browser what we ask and put into the form what the browser says. Without it there are still the app and the recovery codes.

use maud::{Markup, PreEscaped, html};

use crate::identity::passkey::Ceremony;

/// The input with our own sealed state.
pub(in crate::oauth) const CEREMONY: &str = "ceremony";
/// The input with what the browser says.
pub(in crate::oauth) const ANSWER: &str = "passkey";

/// The script. The content security policy knows it by its hash, so it may not change from page to page.
pub(super) const SCRIPT: &str = r"
'use strict';
(() => {
  if (!window.PublicKeyCredential) return;
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
  const text = (buffer) => btoa(Array.from(new Uint8Array(buffer), (b) => String.fromCharCode(b)).join(''))
    .replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
  const parts = ['clientDataJSON', 'attestationObject', 'authenticatorData', 'signature', 'userHandle'];
  for (const place of document.querySelectorAll('[data-passkey]')) {
    const form = place.closest('form');
    const button = place.querySelector('button');
    const problem = place.querySelector('[role=status]');
    const code = form.elements.code;
    const { publicKey } = JSON.parse(place.dataset.options);
    publicKey.challenge = bytes(publicKey.challenge);
    if (publicKey.user) publicKey.user.id = bytes(publicKey.user.id);
    for (const known of publicKey.allowCredentials || publicKey.excludeCredentials || []) known.id = bytes(known.id);
    place.hidden = false;
    button.addEventListener('click', async () => {
      if (code) code.required = false;
      const complete = form.reportValidity();
      if (code) code.required = true;
      if (!complete) return;
      button.disabled = true;
      problem.hidden = true;
      try {
        const makes = place.dataset.passkey === 'make';
        const made = await navigator.credentials[makes ? 'create' : 'get']({ publicKey });
        const response = {};
        for (const part of parts) if (made.response[part]) response[part] = text(made.response[part]);
        if (made.response.getTransports) response.transports = made.response.getTransports();
        form.elements.passkey.value = JSON.stringify({ id: made.id, rawId: text(made.rawId), type: made.type, response });
        form.submit();
      } catch (error) {
        problem.textContent = error.name === 'InvalidStateError'
          ? 'There is a passkey for you on this device already.'
          : 'No passkey was used. Try again, or choose another way.';
        problem.hidden = false;
        button.disabled = false;
      }
    });
  }
})();
";

/// The form's part that asks for one; browsers that know none do not show it.
pub(super) fn part_to_show(ceremony: &Ceremony) -> Markup {
    html! {
        (inputs(ceremony))
        div data-passkey="show" data-options=(ceremony.options) hidden {
            div .actions { button .primary type="button" { "Use a passkey" } }
            (status())
        }
    }
}

/// The form's part that makes one.
pub(super) fn part_to_make(ceremony: &Ceremony) -> Markup {
    html! {
        (inputs(ceremony))
        div data-passkey="make" data-options=(ceremony.options) hidden {
            h2 { "Passkey" }
            p { "This device, your phone or a security key shows that it is you. There is nothing to type." }
            label for="name" { "Name" }
            input #name type="text" name="name" maxlength="60" autocomplete="off" placeholder="My laptop" aria-describedby="name_rule";
            small #name_rule { "For you to tell it from others. You can leave it empty." }
            div .actions { button type="button" { "Make a passkey" } }
            (status())
        }
    }
}

fn inputs(ceremony: &Ceremony) -> Markup {
    html! {
        input type="hidden" name=(CEREMONY) value=(ceremony.sealed);
        input type="hidden" name=(ANSWER) value="";
    }
}

/// Where the script says what went wrong.
fn status() -> Markup {
    html! { p .alert role="status" hidden {} }
}

/// The script itself.
pub(super) fn script() -> Markup {
    html! { script { (PreEscaped(SCRIPT)) } }
}
