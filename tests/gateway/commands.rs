//! The commands that administer a running gateway, as a person types them: the real program against a real gateway.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::person::{register, tokens};
use crate::sessions::ADMIN_TOKEN;
use crate::setup::Gateway;

/// A gateway, and the program to administer it.
struct Administered {
    gateway: Gateway,
    file: String,
}

/// What the program said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Administered {
    async fn start() -> Self {
        let gateway =
            Gateway::start_with(|yaml| yaml.replace("admin: {", &format!("admin: {{ token: \"{ADMIN_TOKEN}\","))).await;
        let path = gateway.directory.path().join("gateway.yaml");
        std::fs::write(&path, &gateway.yaml).unwrap();
        let file = path.to_str().unwrap().to_owned();
        Self { gateway, file }
    }

    /// `mcpgate … -c gateway.yaml`.
    async fn run(&self, arguments: &[&str]) -> Said {
        self.typing(arguments, "").await
    }

    async fn typing(&self, arguments: &[&str], input: &str) -> Said {
        told(&[arguments, &["-c", &self.file]].concat(), input, None).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let said = self.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.gateway.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

async fn told(arguments: &[&str], input: &str, token: Option<&str>) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcpgate"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("MCPGATE_ADMIN_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(token) = token {
        command.env("MCPGATE_ADMIN_TOKEN", token);
    }
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that reads nothing may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Said {
        code: output.status.code().expect("it exits by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_administered_from_the_command_line() {
    let at = Administered::start().await;
    let add = [
        "users",
        "add",
        "grace",
        "--name",
        "Grace Hopper",
        "--email",
        "grace@example.com",
        "--group",
        "navy",
        "--group",
        "a b",
    ];
    let said = at.typing(&add, "a password that is long\n").await;
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (0, "grace was added\n", "")
    );
    let said = at.typing(&add, "a password that is long\n").await;
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert_eq!(said.err, "mcpgate: \"grace\" is taken by an account that there is\n");
    let said = at.typing(&["users", "add", "ada"], "a password that is long\n").await;
    assert_eq!(said.err, "mcpgate: \"ada\" is in `users` of the configuration\n");
    let said = at.typing(&["users", "add", "short"], "short\n").await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "mcpgate: A password has at least 10 characters.\n")
    );
    let said = at.typing(&["users", "add", "empty"], "\n").await;
    assert_eq!((said.code, said.err.as_str()), (2, "mcpgate: the password is empty\n"));
    // A password that is made up is shown once, and has to be changed.
    let said = at.run(&["users", "add", "alan", "--generate"]).await;
    let password = said
        .out
        .trim()
        .strip_prefix("alan was added\nPassword, shown this once: ")
        .unwrap();
    assert_eq!(password.len(), 20);
    let alan = at.json(&["users", "list", "--search", "alan"]).await;
    assert_eq!(
        (&alan[0]["username"], &alan[0]["must_change_password"]),
        (&json!("alan"), &json!(true))
    );
    assert!(!alan.to_string().contains(password));
    let list = at.run(&["users", "list"]).await;
    assert_eq!(list.code, 0, "{}", list.err);
    let lines: Vec<&str> = list.out.lines().collect();
    assert!(lines[0].starts_with("SUBJECT  NAME          E-MAIL"), "{}", list.out);
    assert_eq!(lines.len(), 5, "{}", list.out);
    assert!(
        lines[4].starts_with("grace    Grace Hopper  grace@example.com  navy,a b"),
        "{}",
        list.out
    );
    let said = at.run(&["users", "disable", "grace"]).await;
    assert_eq!(said.out, "grace is disabled; their sessions and tokens ended\n");
    assert_eq!(
        at.json(&["users", "list", "--search", "hopper"]).await[0]["disabled"],
        true
    );
    let said = at.run(&["users", "enable", "grace"]).await;
    assert_eq!(said.out, "grace can sign in again\n");
    let said = at.run(&["users", "reset", "grace", "--generate"]).await;
    assert!(
        said.out
            .starts_with("grace has another password, which has to be changed"),
        "{}",
        said.out
    );
    let said = at.run(&["users", "reset", "ada", "--generate"]).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("the one that the file says"), "{}", said.err);
    let said = at.run(&["users", "remove", "grace"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "grace was removed\n"));
    let said = at.run(&["users", "remove", "grace"]).await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "mcpgate: there is nobody with the subject \"grace\"\n")
    );
    let said = at.run(&["users", "disable", "nobody/../ada"]).await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "mcpgate: there is nobody with the subject \"nobody/../ada\"\n")
    );
    assert_eq!(
        at.json(&["users", "list", "--search", "ada"]).await[0]["disabled"],
        false
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_that_was_lost_is_forgotten() {
    let at = Administered::start().await;
    let client = register(&at.gateway, json!({})).await;
    let (mut browser, ..) = crate::second::set_up(&at.gateway, &client).await;
    assert_eq!(browser.get(&at.gateway, "/account").await.status, 200);
    let said = at.run(&["users", "forget-factor", "ada"]).await;
    let expected = "ada has no second factor any more; their sessions ended\n";
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, expected, ""));
    assert_eq!(browser.get(&at.gateway, "/account").await.status, 303, "signed out");
    // From here on the password is enough.
    tokens(&at.gateway, &client, "ada", "one").await;
    let said = at.run(&["users", "forget-factor", "ada"]).await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "mcpgate: \"ada\" has no second factor\n")
    );
    let said = at.run(&["users", "forget-factor", "nobody"]).await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "mcpgate: there is nobody with the subject \"nobody\"\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_grants_and_tokens_are_listed_and_revoked_from_the_command_line() {
    let at = Administered::start().await;
    let client = register(&at.gateway, json!({ "client_name": "\u{1b}[31mred\u{202e}" })).await;
    let ada = tokens(&at.gateway, &client, "ada", "one").await;
    let bob = tokens(&at.gateway, &client, "bob", "two").await;
    let said = at.run(&["clients", "list"]).await;
    assert!(
        said.out.contains(&client.id) && said.out.contains("ci-runner"),
        "{}",
        said.out
    );
    assert!(!said.out.contains(['\u{1b}', '\u{202e}']), "{:?}", said.out);
    let grants = at.json(&["grants", "list", "--subject", "ada"]).await;
    assert_eq!(
        (grants.as_array().unwrap().len(), &grants[0]["upstream"]),
        (1, &json!("one"))
    );
    let id = grants[0]["id"].as_str().unwrap();
    let said = at.run(&["tokens", "list", "--upstream", "two"]).await;
    assert!(said.out.contains("bob") && !said.out.contains("ada"), "{}", said.out);
    assert!(!said.out.contains("mgat_"));
    let said = at.run(&["tokens", "list", "--limit", "1"]).await;
    assert_eq!(said.out.lines().count(), 2);
    assert_eq!(said.err, "mcpgate: there are more; use --search or a larger --limit\n");
    let said = at.run(&["tokens", "revoke", id]).await;
    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "1 grant was revoked, with its tokens\n")
    );
    assert_eq!(at.gateway.call("one", Some(&ada.access)).await.status, 401);
    let said = at.run(&["grants", "revoke", id]).await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("there is no grant"), "{}", said.err);
    let said = at.run(&["grants", "revoke", "--subject", "ada"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "There was nothing to revoke\n"));
    let said = at.run(&["clients", "revoke", &client.id]).await;
    assert_eq!(said.out, "1 grant was revoked, with its tokens\n");
    assert_eq!(at.gateway.call("two", Some(&bob.access)).await.status, 401);
    let said = at.run(&["clients", "remove", &client.id]).await;
    assert_eq!(said.out, format!("{} was removed\n", client.id));
    let said = at.run(&["clients", "remove", "ci-runner"]).await;
    assert!(said.code == 1 && said.err.contains("remove it there"), "{}", said.err);
    assert_eq!(at.run(&["grants", "list"]).await.out, "There are none.\n");
    for wrong in [
        &["grants", "revoke"][..],
        &["grants", "revoke", id, "--subject", "ada"],
        &["users"],
        &["users", "add"],
    ] {
        assert_eq!(at.run(wrong).await.code, 2, "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_comes_from_a_file_or_the_environment_and_errors_say_what_to_do() {
    let at = Administered::start().await;
    let url = format!("http://{}", at.gateway.running.admin);
    let list = ["users", "list", "--admin", &url];
    assert_eq!(told(&list, "", Some(ADMIN_TOKEN)).await.code, 0);
    let file = at.write("token", &format!("{ADMIN_TOKEN}\n"));
    assert_eq!(
        told(&[&list[..], &["--token-file", &file]].concat(), "", None)
            .await
            .code,
        0
    );
    // The file that is named counts, and not the environment.
    let wrong = at.write("wrong", "not the token at all\n");
    let said = told(&[&list[..], &["--token-file", &wrong]].concat(), "", Some(ADMIN_TOKEN)).await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "mcpgate: this is not the token that admin.token says\n")
    );
    let said = told(&list, "", None).await;
    assert_eq!(said.code, 2);
    assert!(said.err.contains("--token-file"), "{}", said.err);
    let said = told(&[&list[..], &["--token-file", "/nowhere/token"]].concat(), "", None).await;
    assert!(said.code == 2 && said.err.contains("cannot be read"), "{}", said.err);
    for address in ["nonsense", "ftp://127.0.0.1", "http://a:b@127.0.0.1"] {
        let said = told(&["users", "list", "--admin", address], "", Some(ADMIN_TOKEN)).await;
        assert!(
            said.code == 2 && said.err.contains("no address of an admin listener"),
            "{}",
            said.err
        );
    }
    let said = told(
        &["users", "list", "--admin", "http://127.0.0.1:9"],
        "",
        Some(ADMIN_TOKEN),
    )
    .await;
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("nobody answers at http://127.0.0.1:9/"),
        "{}",
        said.err
    );
    // The public listener is none.
    let said = told(
        &["users", "list", "--admin", &at.gateway.origin()],
        "",
        Some(ADMIN_TOKEN),
    )
    .await;
    assert_eq!(said.code, 1, "{}", said.out);
    // A configuration without a token, one that is not there, one that is none.
    let without = at.write(
        "without.yaml",
        &at.gateway.yaml.replace(&format!("token: \"{ADMIN_TOKEN}\","), ""),
    );
    let said = told(&["users", "list", "-c", &without], "", None).await;
    assert!(
        said.code == 2 && said.err.contains("has no admin.token"),
        "{}",
        said.err
    );
    let said = told(&["-c", "/nowhere.yaml", "users", "list"], "", None).await;
    assert!(said.code == 2 && said.err.contains("/nowhere.yaml"), "{}", said.err);
    // What else it names need not be there.
    let yaml = format!(
        "admin: {{ listen: \"{}\", token: {{ file: \"{file}\" }} }}\nupstreams: [{{ tls: {{ cert: /nowhere }} }}]\n",
        at.gateway.running.admin
    );
    let part = at.write("part.yaml", &yaml);
    let said = told(&["users", "list", "-c", &part], "", None).await;
    assert_eq!(said.code, 0, "{}", said.err);
    for said in [said.out, said.err] {
        assert!(!said.contains(ADMIN_TOKEN));
    }
}
