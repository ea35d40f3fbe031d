//! All that users read, in each language: a struct, so that no text can be missing in one.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    En,
    Ko,
}

impl Lang {
    pub const ALL: [Self; 2] = [Self::En, Self::Ko];

    pub fn parse(tag: &str) -> Option<Self> {
        let primary = tag.trim().split('-').next().unwrap_or_default();
        Self::ALL.into_iter().find(|l| l.tag().eq_ignore_ascii_case(primary))
    }

    /// By `Accept-Language` (RFC 9110, 12.5.4); what nobody asked for is English.
    pub fn accepted(header: &str) -> Self {
        let mut best = (0.0, Self::En);
        for item in header.split(',').take(32) {
            let (tag, rest) = item.split_once(';').unwrap_or((item, ""));
            let weight = rest.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.parse::<f32>().ok());
            if let (Some(lang), Some(weight)) = (Self::parse(tag), weight)
                && weight > best.0
            {
                best = (weight, lang);
            }
        }
        best.1
    }

    pub fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Ko => "ko",
        }
    }

    /// As its speakers call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::Ko => "한국어",
        }
    }

    pub fn text(self) -> &'static Text {
        match self {
            Self::En => &EN,
            Self::Ko => &KO,
        }
    }
}

/// `{}` in a text stands for what its name says.
#[derive(Debug)]
pub struct Text {
    pub languages: &'static str,
    pub problem: &'static str,
    pub back: &'static str,
    pub or: &'static str,

    pub sign_in_to_service: &'static str,
    pub sign_in_again: &'static str,
    pub with_passkey: &'static str,
    pub with_password: &'static str,
    pub login: &'static str,
    pub password: &'static str,
    pub no_account: &'static str,
    pub signed_in_as: &'static str,
    pub go_on: &'static str,
    pub signed_out: &'static str,
    pub wrong: &'static str,
    pub wait_seconds: &'static str,
    pub busy: &'static str,
    pub passwords_elsewhere: &'static str,
    pub passwords_not_here: &'static str,
    pub passkeys_at_host: &'static str,
    pub needs_script: &'static str,
    pub needs_https: &'static str,

    pub sign_up_for_service: &'static str,
    pub have_account: &'static str,
    pub login_hint: &'static str,
    pub name: &'static str,
    pub email: &'static str,
    pub optional: &'static str,
    pub password_hint: &'static str,
    pub sign_up_with_passkey: &'static str,
    pub sign_up_with_password: &'static str,
    pub only_invited: &'static str,
    pub nobody_yet: &'static str,
    pub invitation_ended: &'static str,
    pub come_back: &'static str,
    pub come_back_as: &'static str,
    pub bad_login: &'static str,
    pub taken: &'static str,
    pub bad_name: &'static str,
    pub bad_email: &'static str,
    pub full: &'static str,
    pub weak_short: &'static str,
    pub weak_long: &'static str,
    pub weak_common: &'static str,

    pub sign_out: &'static str,
    pub sign_out_question: &'static str,

    pub account: &'static str,
    pub about_you: &'static str,
    pub groups: &'static str,
    pub save: &'static str,
    pub saved: &'static str,
    pub passkeys: &'static str,
    pub passkeys_hint: &'static str,
    pub no_passkeys: &'static str,
    pub add_passkey: &'static str,
    pub passkey_name: &'static str,
    pub default_passkey_name: &'static str,
    pub rename: &'static str,
    pub remove: &'static str,
    pub created: &'static str,
    pub last_used: &'static str,
    pub never: &'static str,
    pub set_password: &'static str,
    pub change_password: &'static str,
    pub remove_password: &'static str,
    pub new_password: &'static str,
    pub password_is_set: &'static str,
    pub no_password: &'static str,
    pub app_passwords: &'static str,
    pub app_passwords_hint: &'static str,
    pub app_password_name: &'static str,
    pub make_app_password: &'static str,
    pub app_password_made: &'static str,
    pub revoke: &'static str,
    pub too_many: &'static str,
    pub sessions: &'static str,
    pub this_session: &'static str,
    pub unknown_browser: &'static str,
    pub last_seen: &'static str,
    pub end: &'static str,
    pub end_others: &'static str,
    pub delete_account: &'static str,
    pub delete_hint: &'static str,
    pub delete_confirm: &'static str,
    pub deleted: &'static str,
    pub last_way: &'static str,
    pub no_way: &'static str,

    pub not_found: &'static str,
    pub stale_form: &'static str,
    pub not_possible: &'static str,
    pub failed: &'static str,

    pub passkey_unsupported: &'static str,
    pub passkey_cancelled: &'static str,
    pub passkey_unknown: &'static str,
    pub passkey_expired: &'static str,
    pub passkey_refused: &'static str,
    pub passkey_waiting: &'static str,
}

const EN: Text = Text {
    languages: "Languages",
    problem: "That did not work",
    back: "Back",
    or: "or",

    sign_in_to_service: "Sign in to {}",
    sign_in_again: "For this change, show once more that it is you.",
    with_passkey: "Sign in with a passkey",
    with_password: "Sign in with a password",
    login: "Login",
    password: "Password",
    no_account: "Create an account",
    signed_in_as: "You are signed in as {}.",
    go_on: "Continue",
    signed_out: "You are signed out.",
    wrong: "The login or the password is wrong.",
    wait_seconds: "Too many tries. Wait {} seconds, then try again. Passkeys work at once.",
    busy: "Too many people are signing in just now. Try again in a moment.",
    passwords_elsewhere: "The service is running at another provider than usual, and some passwords did not come along. If yours does not work, sign in with a passkey.",
    passwords_not_here: "The service is running at another provider than usual, and passwords do not work here. Sign in with a passkey.",
    passkeys_at_host: "Passkeys of this service work at {} only.",
    needs_script: "Passkeys need JavaScript.",
    needs_https: "Signing in works over https only. Open this page at {}.",

    sign_up_for_service: "Create an account for {}",
    have_account: "I have an account",
    login_hint: "Letters, digits, and . - _ @",
    name: "Name",
    email: "E-mail address",
    optional: "optional",
    password_hint: "At least 8 characters. Several words are good.",
    sign_up_with_passkey: "Create the account with a passkey",
    sign_up_with_password: "Create the account with a password",
    only_invited: "You need an invitation to create an account here. Ask whoever runs this service.",
    nobody_yet: "Nobody has an account here yet. Whoever runs this service makes the first invitation with: pumasi user invite",
    invitation_ended: "This invitation was used already, or its time is over. Ask for a new one.",
    come_back: "Sign in by invitation",
    come_back_as: "This invitation signs you in as {}, once. Then add a passkey or set a password.",
    bad_login: "The login is 1 to 64 letters, digits, and . - _ @, and begins with a letter or a digit.",
    taken: "This login is taken. Choose another one.",
    bad_name: "The name is one line of at most 128 bytes.",
    bad_email: "This is not an e-mail address.",
    full: "No more accounts can be created here.",
    weak_short: "The password is too short: at least 8 bytes.",
    weak_long: "The password is too long: at most 1,024 bytes.",
    weak_common: "This password is among the first that attackers try. Choose another one.",

    sign_out: "Sign out",
    sign_out_question: "Sign out of {}?",

    account: "Your account",
    about_you: "About you",
    groups: "Groups",
    save: "Save",
    saved: "Saved.",
    passkeys: "Passkeys",
    passkeys_hint: "A passkey is kept by your phone, computer or security key, and works wherever this service is running.",
    no_passkeys: "You have none.",
    add_passkey: "Add a passkey",
    passkey_name: "Name of the passkey",
    default_passkey_name: "Passkey",
    rename: "Rename",
    remove: "Remove",
    created: "created",
    last_used: "last used",
    never: "never",
    set_password: "Set a password",
    change_password: "Change the password",
    remove_password: "Remove the password",
    new_password: "New password",
    password_is_set: "You have a password. When it changes, your other sessions end.",
    no_password: "You have none.",
    app_passwords: "App passwords",
    app_passwords_hint: "For calendars, mail and other programs that are no browsers: one for each, with your login.",
    app_password_name: "What it is for",
    make_app_password: "Make an app password",
    app_password_made: "The new app password. It is shown only now:",
    revoke: "Revoke",
    too_many: "You have as many as you can have. Remove one first.",
    sessions: "Where you are signed in",
    this_session: "this browser",
    unknown_browser: "unknown program",
    last_seen: "last seen",
    end: "Sign out there",
    end_others: "Sign out everywhere else",
    delete_account: "Delete my account",
    delete_hint: "Everything that is known of you here is erased: you cannot come back to it. What you have in the service itself stays.",
    delete_confirm: "Type your login to confirm",
    deleted: "Your account is deleted.",
    last_way: "This is your last way to sign in. Add another one first.",
    no_way: "You have no way to sign in again yet. Add a passkey or set a password now.",

    not_found: "There is no such page.",
    stale_form: "This form is too old, or was not sent from this page. Go back, load the page anew, and try again.",
    not_possible: "This is not possible here.",
    failed: "The change could not be stored. Try again in a moment.",

    passkey_unsupported: "This browser cannot use passkeys.",
    passkey_cancelled: "No passkey was used. Try again.",
    passkey_unknown: "This passkey is not known here. It may have been removed.",
    passkey_expired: "That took too long. Try again.",
    passkey_refused: "The passkey was not accepted. This page must be opened at {}.",
    passkey_waiting: "Follow what your device asks.",
};

const KO: Text = Text {
    languages: "언어",
    problem: "문제가 생겼습니다",
    back: "돌아가기",
    or: "또는",

    sign_in_to_service: "{} 로그인",
    sign_in_again: "변경하려면 본인인지 한 번 더 확인해야 합니다.",
    with_passkey: "패스키로 로그인",
    with_password: "비밀번호로 로그인",
    login: "아이디",
    password: "비밀번호",
    no_account: "계정 만들기",
    signed_in_as: "{} 님으로 로그인되어 있습니다.",
    go_on: "계속",
    signed_out: "로그아웃되었습니다.",
    wrong: "아이디 또는 비밀번호가 올바르지 않습니다.",
    wait_seconds: "시도 횟수가 너무 많습니다. {}초 뒤에 다시 시도해 주세요. 패스키는 바로 사용할 수 있습니다.",
    busy: "지금 로그인하는 사람이 많습니다. 잠시 뒤에 다시 시도해 주세요.",
    passwords_elsewhere: "서비스가 평소와 다른 제공자에서 운영되고 있어 일부 비밀번호를 사용할 수 없습니다. 비밀번호가 맞지 않으면 패스키로 로그인해 주세요.",
    passwords_not_here: "서비스가 평소와 다른 제공자에서 운영되고 있어 비밀번호를 사용할 수 없습니다. 패스키로 로그인해 주세요.",
    passkeys_at_host: "이 서비스의 패스키는 {}에서만 사용할 수 있습니다.",
    needs_script: "패스키를 사용하려면 자바스크립트가 필요합니다.",
    needs_https: "로그인은 https에서만 할 수 있습니다. {}에서 이 페이지를 열어 주세요.",

    sign_up_for_service: "{} 계정 만들기",
    have_account: "이미 계정이 있습니다",
    login_hint: "글자, 숫자, . - _ @",
    name: "이름",
    email: "이메일 주소",
    optional: "선택",
    password_hint: "8자 이상. 여러 단어를 이어 쓰면 좋습니다.",
    sign_up_with_passkey: "패스키로 계정 만들기",
    sign_up_with_password: "비밀번호로 계정 만들기",
    only_invited: "초대를 받아야 계정을 만들 수 있습니다. 서비스 운영자에게 문의해 주세요.",
    nobody_yet: "아직 계정이 하나도 없습니다. 서비스 운영자가 다음 명령으로 첫 초대를 만듭니다: pumasi user invite",
    invitation_ended: "이미 사용했거나 기한이 지난 초대입니다. 새 초대를 요청해 주세요.",
    come_back: "초대로 로그인",
    come_back_as: "이 초대로 {} 님으로 한 번 로그인합니다. 로그인한 뒤 패스키를 추가하거나 비밀번호를 설정해 주세요.",
    bad_login: "아이디는 글자, 숫자, . - _ @ 1~64자이며 글자나 숫자로 시작해야 합니다.",
    taken: "이미 사용 중인 아이디입니다. 다른 아이디를 골라 주세요.",
    bad_name: "이름은 한 줄, 128바이트 이하여야 합니다.",
    bad_email: "이메일 주소가 아닙니다.",
    full: "더 이상 계정을 만들 수 없습니다.",
    weak_short: "비밀번호가 너무 짧습니다. 8바이트 이상이어야 합니다.",
    weak_long: "비밀번호가 너무 깁니다. 1,024바이트 이하여야 합니다.",
    weak_common: "공격자가 가장 먼저 시도하는 비밀번호입니다. 다른 비밀번호를 골라 주세요.",

    sign_out: "로그아웃",
    sign_out_question: "{}에서 로그아웃할까요?",

    account: "내 계정",
    about_you: "내 정보",
    groups: "그룹",
    save: "저장",
    saved: "저장했습니다.",
    passkeys: "패스키",
    passkeys_hint: "패스키는 휴대전화, 컴퓨터, 보안 키에 보관되며 서비스가 어디에서 운영되든 사용할 수 있습니다.",
    no_passkeys: "아직 없습니다.",
    add_passkey: "패스키 추가",
    passkey_name: "패스키 이름",
    default_passkey_name: "패스키",
    rename: "이름 바꾸기",
    remove: "삭제",
    created: "만든 때",
    last_used: "마지막 사용",
    never: "없음",
    set_password: "비밀번호 설정",
    change_password: "비밀번호 변경",
    remove_password: "비밀번호 삭제",
    new_password: "새 비밀번호",
    password_is_set: "비밀번호가 설정되어 있습니다. 변경하면 다른 곳에서는 로그아웃됩니다.",
    no_password: "아직 없습니다.",
    app_passwords: "앱 비밀번호",
    app_passwords_hint: "캘린더나 메일처럼 브라우저가 아닌 프로그램에서 아이디와 함께 사용합니다. 프로그램마다 하나씩 만드세요.",
    app_password_name: "용도",
    make_app_password: "앱 비밀번호 만들기",
    app_password_made: "새 앱 비밀번호입니다. 지금 한 번만 표시됩니다:",
    revoke: "폐기",
    too_many: "더 이상 만들 수 없습니다. 먼저 하나를 삭제해 주세요.",
    sessions: "로그인되어 있는 곳",
    this_session: "이 브라우저",
    unknown_browser: "알 수 없는 프로그램",
    last_seen: "마지막 접속",
    end: "로그아웃시키기",
    end_others: "다른 모든 곳에서 로그아웃",
    delete_account: "계정 삭제",
    delete_hint: "여기에 있는 내 정보가 모두 지워지며 되돌릴 수 없습니다. 서비스 안에 저장한 내용은 그대로 남습니다.",
    delete_confirm: "확인을 위해 아이디를 입력해 주세요",
    deleted: "계정을 삭제했습니다.",
    last_way: "마지막 남은 로그인 방법입니다. 먼저 다른 방법을 추가해 주세요.",
    no_way: "다시 로그인할 방법이 아직 없습니다. 지금 패스키를 추가하거나 비밀번호를 설정해 주세요.",

    not_found: "없는 페이지입니다.",
    stale_form: "너무 오래된 양식이거나 이 페이지에서 보낸 것이 아닙니다. 돌아가서 페이지를 새로 연 다음 다시 시도해 주세요.",
    not_possible: "여기에서는 할 수 없습니다.",
    failed: "변경을 저장하지 못했습니다. 잠시 뒤에 다시 시도해 주세요.",

    passkey_unsupported: "이 브라우저에서는 패스키를 사용할 수 없습니다.",
    passkey_cancelled: "패스키를 사용하지 않았습니다. 다시 시도해 주세요.",
    passkey_unknown: "알 수 없는 패스키입니다. 삭제되었을 수 있습니다.",
    passkey_expired: "시간이 지났습니다. 다시 시도해 주세요.",
    passkey_refused: "패스키를 받아들이지 못했습니다. 이 페이지는 {}에서 열어야 합니다.",
    passkey_waiting: "기기의 안내를 따라 주세요.",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_that_is_wanted_most() {
        for (header, lang) in [
            ("", Lang::En),
            ("ko", Lang::Ko),
            ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", Lang::Ko),
            ("en-US,en;q=0.9,ko;q=0.8", Lang::En),
            ("fr,ko;q=0.5", Lang::Ko),
            ("fr", Lang::En),
            ("ko;q=0,en;q=0.1", Lang::En),
            ("ko;q=x", Lang::En),
        ] {
            assert_eq!(Lang::accepted(header), lang, "{header}");
        }
        assert_eq!((Lang::parse("KO-kr"), Lang::parse("korean")), (Some(Lang::Ko), None));
    }
}
